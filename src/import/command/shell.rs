//! Just enough of a shell to read a launch script: words, quotes, continuations, comments, arrays and variables.
//!
//! Nothing is ever run. What cannot be known (`$(...)`, positional parameters) stays as text with its `$`, and a flag that needs
//! a number refuses it there.

use std::collections::BTreeMap;

/// A word and the line it starts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) line: usize,
}

/// A script: its commands, and what its variables hold at the end.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// Words of each command, variables put in.
    pub(super) commands: Vec<Vec<Word>>,
    /// Every variable, split into words.
    pub(super) variables: BTreeMap<String, Vec<Word>>,
}

/// A script longer than this is not a launch script, and expansion must stay bounded.
const MOST_WORDS: usize = 200_000;

/// Splits a script.
pub(super) fn parse(text: &str) -> Script {
    let mut script = Script::default();
    let mut command: Vec<Word> = Vec::new();
    let mut budget = MOST_WORDS;
    for token in tokens(text) {
        match token {
            Token::End => finish(&mut script, &mut command),
            Token::Array { name, append, body } => {
                let mut words = expand_all(&body, &script.variables, &mut budget);
                if append && let Some(old) = script.variables.get(&name) {
                    words = old.iter().cloned().chain(words).take(MOST_WORDS).collect();
                }
                script.variables.insert(name, words);
            }
            Token::Word(raw) => {
                if only_assignments(&command)
                    && let Some((name, value)) = assignment(&raw.text)
                {
                    let value = Raw { text: value.to_owned(), line: raw.line };
                    let words = expand_value(&value, &script.variables, &mut budget);
                    // An assignment before a command is its environment, and read the same way.
                    command.push(Word { text: raw.text.clone(), line: raw.line });
                    script.variables.insert(name.to_owned(), words);
                    continue;
                }
                command.extend(expand(&raw, &script.variables, &mut budget));
            }
        }
    }
    finish(&mut script, &mut command);
    script
}

fn only_assignments(command: &[Word]) -> bool {
    const BEFORE: [&str; 6] = ["export", "local", "declare", "readonly", "then", "env"];
    command.iter().all(|w| BEFORE.contains(&w.text.as_str()) || assignment(&w.text).is_some())
}

fn finish(script: &mut Script, command: &mut Vec<Word>) {
    if !command.is_empty() {
        script.commands.push(std::mem::take(command));
    }
}

/// `NAME=value`, for a shell's idea of a name.
fn assignment(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once('=')?;
    let name = name.strip_suffix('+').unwrap_or(name);
    let valid = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (valid && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')).then_some((name, value))
}

/// A word before expansion; quotes are still in it.
#[derive(Debug, Clone)]
struct Raw {
    text: String,
    line: usize,
}

enum Token {
    Word(Raw),
    Array { name: String, append: bool, body: Vec<Raw> },
    End,
}

/// An array that is being read: its name, whether it is appended to, its words.
type Open = (String, bool, Vec<Raw>);

/// Words with their quotes, ends of commands, and arrays.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let mut array: Option<Open> = None;
    let mut word = String::new();
    let mut start = 1;
    let mut line = 1;
    let mut i = 0;
    while let Some(&c) = chars.get(i) {
        if word.is_empty() {
            start = line;
        }
        let next = chars.get(i + 1).copied();
        let flush = |word: &mut String, array: &mut Option<Open>, out: &mut Vec<Token>| {
            if word.is_empty() {
                return;
            }
            let raw = Raw { text: std::mem::take(word), line: start };
            match array {
                Some((_, _, body)) => body.push(raw),
                None => out.push(Token::Word(raw)),
            }
        };
        match c {
            '\\' if next == Some('\n') || (next == Some('\r') && chars.get(i + 2) == Some(&'\n')) => {
                flush(&mut word, &mut array, &mut out);
                line += 1;
                i += if next == Some('\n') { 2 } else { 3 };
                continue;
            }
            '\\' => {
                word.push(c);
                if let Some(n) = next {
                    word.push(n);
                    i += 1;
                }
            }
            '\'' | '"' => {
                // A quote that never closes is an apostrophe in prose or in a here-document.
                match closing(&chars, i) {
                    Some(end) => {
                        word.extend(&chars[i..=end]);
                        line += chars[i..=end].iter().filter(|c| **c == '\n').count();
                        i = end;
                    }
                    None => word.push(c),
                }
            }
            '$' if matches!(next, Some('(' | '{')) => match bracket(&chars, i + 1) {
                Some(end) => {
                    word.extend(&chars[i..=end]);
                    line += chars[i..=end].iter().filter(|c| **c == '\n').count();
                    i = end;
                }
                None => word.push(c),
            },
            '#' if word.is_empty() => {
                while chars.get(i + 1).is_some_and(|c| *c != '\n') {
                    i += 1;
                }
            }
            '\n' | ';' | '|' | '&' => {
                // Inside an array a line's end is a space.
                flush(&mut word, &mut array, &mut out);
                if array.is_none() {
                    out.push(Token::End);
                }
                line += usize::from(c == '\n');
            }
            '(' if word.ends_with('=') && assignment(&word).is_some() && array.is_none() => {
                let name = word.trim_end_matches(['=', '+']).to_owned();
                array = Some((name, word.ends_with("+="), Vec::new()));
                word.clear();
            }
            ')' if array.is_some() => {
                flush(&mut word, &mut array, &mut out);
                if let Some((name, append, body)) = array.take() {
                    out.push(Token::Array { name, append, body });
                }
            }
            c if c.is_whitespace() => flush(&mut word, &mut array, &mut out),
            c => word.push(c),
        }
        i += 1;
    }
    if !word.is_empty() {
        let raw = Raw { text: word, line: start };
        match &mut array {
            Some((_, _, body)) => body.push(raw),
            None => out.push(Token::Word(raw)),
        }
    }
    // An array that never closes still holds what was read.
    if let Some((name, append, body)) = array {
        out.push(Token::Array { name, append, body });
    }
    out
}

/// Where the quote at `at` closes.
fn closing(chars: &[char], at: usize) -> Option<usize> {
    let quote = *chars.get(at)?;
    let mut i = at + 1;
    while let Some(&c) = chars.get(i) {
        if c == quote {
            return Some(i);
        }
        i += if c == '\\' && quote == '"' { 2 } else { 1 };
    }
    None
}

/// Where the bracket at `at` closes.
fn bracket(chars: &[char], at: usize) -> Option<usize> {
    let mut depth = 0_u32;
    for (i, c) in chars.iter().enumerate().skip(at).take(4096) {
        match c {
            '(' | '{' => depth += 1,
            ')' | '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

fn expand_all(raws: &[Raw], variables: &BTreeMap<String, Vec<Word>>, budget: &mut usize) -> Vec<Word> {
    raws.iter().flat_map(|raw| expand(raw, variables, budget)).collect()
}

/// The words of an assigned value: a quoted string of flags is split, so that it can be put in later.
fn expand_value(raw: &Raw, variables: &BTreeMap<String, Vec<Word>>, budget: &mut usize) -> Vec<Word> {
    let mut out = Vec::new();
    for word in expand(raw, variables, budget) {
        // Line ends inside the string are lines of the script.
        let mut line = word.line;
        for part in word.text.split_inclusive(|c: char| c.is_whitespace()) {
            let text = part.trim().trim_end_matches('\\');
            if !text.is_empty() {
                // Inner quotes of a string of flags are the shell's again once it is evaluated.
                out.push(Word { text: text.to_owned(), line });
            }
            line += usize::from(part.ends_with('\n'));
        }
    }
    out
}

/// Puts variables in and takes quotes off; one raw word may become several.
fn expand(raw: &Raw, variables: &BTreeMap<String, Vec<Word>>, budget: &mut usize) -> Vec<Word> {
    let chars: Vec<char> = raw.text.chars().collect();
    let mut out: Vec<Word> = Vec::new();
    let mut word = String::new();
    let mut quoted: Option<char> = None;
    let mut i = 0;
    while let Some(&c) = chars.get(i) {
        match (c, quoted) {
            ('\'' | '"', None) if closing(&chars, i).is_some() => quoted = Some(c),
            (q, Some(open)) if q == open => quoted = None,
            ('\\', None | Some('"')) => {
                if let Some(&n) = chars.get(i + 1) {
                    // Keep the backslash where a shell would, and drop continued lines.
                    if quoted.is_some() && !matches!(n, '"' | '$' | '\\' | '`' | '\n') {
                        word.push(c);
                    }
                    // A continued line stays one: a command in quotes is read again.
                    if n == '\n' && quoted.is_some() {
                        word.push(c);
                    }
                    word.push(n);
                    i += 1;
                }
            }
            ('$', None | Some('"')) => {
                let (name, default, end) = reference(&chars, i);
                let found = name.as_ref().and_then(|name| variables.get(name)).filter(|words| !words.is_empty());
                match (found, default) {
                    (Some(words), _) if *budget > 0 => {
                        *budget = budget.saturating_sub(words.len() + 1);
                        if words.len() == 1 {
                            word.push_str(&words[0].text);
                        } else {
                            // Several words: those between the first and the last stand alone.
                            for (n, w) in words.iter().enumerate() {
                                if n > 0 && !word.is_empty() {
                                    out.push(Word { text: std::mem::take(&mut word), line: words[n - 1].line });
                                }
                                word.push_str(&w.text);
                            }
                            if let Some(last) = words.last() {
                                out.push(Word { text: std::mem::take(&mut word), line: last.line });
                            }
                        }
                    }
                    (None, Some(value)) => word.push_str(&value),
                    _ => match arithmetic(&chars[i..end], variables) {
                        Some(value) => word.push_str(&value.to_string()),
                        None => word.extend(&chars[i..end]),
                    },
                }
                i = end;
                continue;
            }
            (c, _) => word.push(c),
        }
        i += 1;
    }
    if !word.is_empty() || (out.is_empty() && raw.text.starts_with(['\'', '"'])) {
        out.push(Word { text: word, line: raw.line });
    }
    out
}

/// The variable a `$` names, its default, and where it ends.
fn reference(chars: &[char], at: usize) -> (Option<String>, Option<String>, usize) {
    match chars.get(at + 1) {
        Some('{') => {
            let Some(end) = bracket(chars, at + 1) else { return (None, None, at + 1 + 1) };
            let inner: String = chars[at + 2..end].iter().collect();
            let name: String = inner.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let rest = &inner[name.len()..];
            let default = [":-", ":=", "-", "="].iter().find_map(|op| rest.strip_prefix(op)).map(str::to_owned);
            // Other operations on the value are not followed.
            let plain = rest.is_empty() || rest == "[@]" || rest == "[*]" || default.is_some();
            (plain.then_some(name), default.filter(|d| !d.contains('$')), end + 1)
        }
        Some('(') => (None, None, bracket(chars, at + 1).map_or(at + 2, |end| end + 1)),
        _ => {
            let len = chars[at + 1..].iter().take_while(|c| c.is_ascii_alphanumeric() || **c == '_').count();
            let name: String = chars[at + 1..at + 1 + len].iter().collect();
            ((!name.is_empty()).then_some(name), None, at + 1 + len)
        }
    }
}

/// `$((A * 2 / B))`, left to right by precedence; nothing else.
fn arithmetic(chars: &[char], variables: &BTreeMap<String, Vec<Word>>) -> Option<u64> {
    let text: String = chars.iter().collect();
    let inner = text.strip_prefix("$((")?.strip_suffix("))")?;
    let mut total: u64 = 0;
    for term in inner.split('+') {
        let mut product: Option<u64> = None;
        let mut divide = false;
        let spaced = term.replace('*', " * ").replace('/', " / ");
        for piece in spaced.split_whitespace() {
            match piece {
                "*" => divide = false,
                "/" => divide = true,
                _ => {
                    let name = piece.trim_matches(['$', '{', '}', '(', ')']);
                    let value: u64 = match name.parse() {
                        Ok(value) => value,
                        Err(_) => variables.get(name).filter(|w| w.len() == 1)?[0].text.parse().ok()?,
                    };
                    product = Some(match product {
                        None => value,
                        Some(p) if divide => p.checked_div(value)?,
                        Some(p) => p.checked_mul(value)?,
                    });
                }
            }
        }
        total = total.checked_add(product?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Vec<String> {
        let words = |c: Vec<Word>| c.into_iter().map(|w| w.text).collect::<Vec<_>>().join("|");
        parse(text).commands.into_iter().map(words).collect()
    }

    #[test]
    fn continuations_quotes_and_comments() {
        assert_eq!(commands("a --b 1 \\\n  --c 'x y' # not this\nd"), ["a|--b|1|--c|x y", "d"]);
        assert_eq!(commands("it's fine\nnext"), ["it's|fine", "next"]);
    }

    #[test]
    fn variables_arrays_and_arithmetic() {
        let text = "TP=2\nPP=${PP:-4}\nARGS=(\n --tp $TP # two\n --world $((TP * PP * 2))\n)\nrun \"${ARGS[@]}\" --x ${MISSING}";
        assert!(commands(text).contains(&"run|--tp|2|--world|16|--x|${MISSING}".to_owned()));
        let text = "OPT=\" \\\n --a 1 \\\n --b 2 \"\nrun $OPT --c";
        assert!(commands(text).contains(&"run|--a|1|--b|2|--c".to_owned()));
    }

    #[test]
    fn words_keep_their_lines() {
        let script = parse("A=(\n --x\n 3\n)\nrun ${A[@]} \\\n --y");
        let last = script.commands.last().expect("at least one");
        let lines: Vec<usize> = last.iter().map(|w| w.line).collect();
        assert_eq!(lines, [5, 2, 3, 6]);
    }

    #[test]
    fn doubling_variables_do_not_explode() {
        let mut text = String::from("A=\"x y\"\n");
        for _ in 0..60 {
            text.push_str("A=\"$A $A\"\n");
        }
        assert!(parse(&text).variables["A"].len() < 1_000_000);
    }
}
