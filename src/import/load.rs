//! What is asked of a deployment: lengths of requests and their load, as people write them.

use super::job::ServeFile;
use crate::error::{Error, Result};
use crate::job::{Arrivals, Load, Percentile, Serve};
use crate::lengths::Length;
use serde_json::Value;
use std::path::Path;

/// What a length may be, for error messages.
const LENGTH: &str = "a whole number of tokens from 1, `mean,p50,p95`, or a file of lines `tokens,count`";

/// A length: a number, `mean,p50,p95` as text, list or object, or the path of a histogram.
///
/// # Errors
/// Names the key, the value and what is allowed, or the file and its line.
pub(super) fn length(origin: &str, key: &str, value: &Value) -> Result<Length> {
    let refuse = |allowed: &str| Error::invalid(origin, key, shown(value), allowed);
    let quantiles = |parts: &[f64]| match parts {
        [mean] => {
            let whole = (1.0..=f64::from(u32::MAX)).contains(mean) && mean.fract() == 0.0;
            whole.then(|| Length::point(*mean as u32)).ok_or_else(|| refuse(LENGTH))
        }
        [mean, p50, p95] => Length::from_quantiles(*mean, *p50, *p95).map_err(|e| refuse(e.0)),
        _ => Err(refuse(LENGTH)),
    };
    match value {
        Value::Number(n) => quantiles(&[n.as_f64().unwrap_or(-1.0)]),
        Value::Array(items) => {
            let numbers: Option<Vec<f64>> = items.iter().map(Value::as_f64).collect();
            quantiles(&numbers.ok_or_else(|| refuse(LENGTH))?)
        }
        Value::Object(map) => {
            let known = ["mean", "p50", "p95"];
            if map.len() != known.len() || !known.iter().all(|k| map.contains_key(*k)) {
                return Err(refuse("an object with `mean`, `p50` and `p95`"));
            }
            let numbers: Option<Vec<f64>> = known.iter().map(|k| map[*k].as_f64()).collect();
            quantiles(&numbers.ok_or_else(|| refuse("numbers of tokens"))?)
        }
        Value::String(text) => {
            let numbers: std::result::Result<Vec<f64>, _> = text.split(',').map(|w| w.trim().parse::<f64>()).collect();
            match numbers {
                Ok(numbers) => quantiles(&numbers),
                // What starts as a number was meant as one.
                Err(_) if text.trim_start().starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') => {
                    Err(refuse(LENGTH))
                }
                Err(_) if text.trim().is_empty() => Err(refuse(LENGTH)),
                Err(_) => histogram(text),
            }
        }
        Value::Null | Value::Bool(_) => Err(refuse(LENGTH)),
    }
}

/// A value in an error message: text without its quotes.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Lines of `tokens,count`, one heading allowed, `#` starts a comment.
fn histogram(path: &str) -> Result<Length> {
    let text = crate::catalog::read::text(Path::new(path))?;
    let mut bins: Vec<(f64, f64)> = Vec::new();
    let mut heading = true;
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let mut words = line.split([',', '\t', ';']).map(|w| w.trim().parse::<f64>().ok());
        match (words.next().flatten(), words.next().flatten(), words.next()) {
            (Some(tokens), Some(count), None) => bins.push((tokens, count)),
            _ if heading => {}
            _ => return Err(Error::invalid(format!("{path}:{}", at + 1), "", line, "a line of `tokens,count`")),
        }
        heading = false;
    }
    Length::from_histogram(&bins).map_err(|e| Error::invalid(path, "", format!("{} lines", bins.len()), e.0))
}

/// The load of a serving job: in flight, at a rate, or as much as the targets allow.
pub(super) fn load(origin: &str, file: &ServeFile, serve: &mut Serve) -> Result<()> {
    for (key, said, mean, spread) in [
        ("serve.isl", &file.isl, &mut serve.isl, &mut serve.isl_spread),
        ("serve.osl", &file.osl, &mut serve.osl, &mut serve.osl_spread),
    ] {
        if let Some(value) = said {
            let length = length(origin, key, value)?;
            (*mean, *spread) = (length.mean, length.spread);
        }
    }
    if let Some(name) = &file.percentile {
        serve.percentile = super::job::one_of(origin, "serve.percentile", name, &Percentile::ALL, Percentile::name)?;
    }
    match (file.rate, file.concurrency) {
        (Some(_), Some(_)) => {
            let allowed = "either `rate` or `concurrency`: the requests in flight follow from the rate";
            return Err(Error::invalid(origin, "serve.rate", "rate and concurrency", allowed));
        }
        (Some(rate), None) => {
            serve.load = Load::Rate(rate);
            if file.arrivals.is_none() {
                serve.arrivals = Arrivals::Poisson;
            }
            if serve.arrivals == Arrivals::Burst10x {
                let allowed = "`poisson` or `steady` with a rate: a burst is a closed loop";
                return Err(Error::invalid(origin, "serve.arrivals", "burst10x", allowed));
            }
        }
        (None, None) if serve.ttft.is_some() || serve.tpot.is_some() => serve.load = Load::Most,
        (None, _) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lengths_in_every_form() {
        let read = |value: Value| length("flags", "serve.isl", &value);
        for point in [json!(4096), json!("4096"), json!([4096])] {
            assert_eq!(read(point.clone()).expect("a readable length"), Length::point(4096), "{point}");
        }
        let spread = read(json!("3000,2000,9000")).expect("a readable length");
        assert_eq!((spread.mean, spread.spread.p95), (3000, 9000));
        assert_eq!(read(json!({"mean": 3000, "p50": 2000, "p95": 9000})).expect("a readable length"), spread);
        for bad in [
            json!(0),
            json!(1.5),
            json!(-3),
            json!("1,2"),
            json!("3000,2000,1000"),
            json!("12x"),
            json!(""),
            json!(true),
            json!({"mean": 1}),
            json!(null),
        ] {
            let error = read(bad.clone()).expect_err("a refusal").to_string();
            assert!(error.contains("serve.isl"), "{bad}: {error}");
        }
        assert!(read(json!("no/such/file.csv")).expect_err("a refusal").to_string().contains("no/such/file.csv"));
    }
}
