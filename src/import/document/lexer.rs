//! Text into words, numbers and signs. What must never be taken for a number (`H100`, `GPT-3`, a date, a version)
//! is one token here, so no later step can fall for it.

use super::vocabulary;

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Letters only, lower case; compounds such as `tensor_parallel-size` are several words.
    Word,
    /// Digits, perhaps with a decimal point or an exponent.
    Number,
    /// A GPU's name.
    Gpu,
    /// A model's name.
    Model,
    /// A framework's name; `text` is our short name.
    Framework,
    /// Letters and digits that mean nothing to a plan: `bf16`, dates, versions.
    Other,
    /// A sign; every multiplication sign is `×`.
    Symbol(char),
    /// End of a line that the next line does not continue.
    Break,
}

/// One token and where it stood.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub kind: Kind,
    pub text: String,
    /// Byte offsets in the text that was lexed.
    pub start: usize,
    pub end: usize,
    pub line: u32,
    /// No space before it.
    pub glued: bool,
}

impl Token {
    /// The word in the vocabulary's form.
    pub(super) fn norm(&self) -> &str {
        vocabulary::normal(&self.text)
    }

    /// Whether it is this sign.
    pub(super) fn is(&self, sign: char) -> bool {
        self.kind == Kind::Symbol(sign)
    }

    /// Whether it is one of these words.
    pub(super) fn is_word(&self, words: &[&str]) -> bool {
        self.kind == Kind::Word && words.contains(&self.norm())
    }
}

/// Splits a text that starts on a given line of the document.
pub(super) fn lex(text: &str, first_line: u32) -> Vec<Token> {
    let mut lexer = Lexer { text, at: 0, line: first_line, glued: false, tokens: Vec::new() };
    while let Some(c) = lexer.rest().chars().next() {
        lexer.step(c);
    }
    lexer.tokens
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    glued: bool,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn push(&mut self, kind: Kind, text: impl Into<String>, len: usize) {
        self.tokens.push(Token {
            kind,
            text: text.into(),
            start: self.at,
            end: self.at + len,
            line: self.line,
            glued: self.glued,
        });
        self.at += len;
        self.glued = true;
    }

    fn skip(&mut self, len: usize) {
        self.at += len;
    }

    fn step(&mut self, c: char) {
        match c {
            '\n' => self.newline(),
            _ if c.is_whitespace() => {
                self.skip(c.len_utf8());
                self.glued = false;
            }
            _ if c.is_ascii_digit() => self.digits(),
            _ if c.is_alphabetic() => self.letters(),
            _ => self.sign(c),
        }
    }

    fn newline(&mut self) {
        let before = self.text.get(..self.at).unwrap_or_default();
        let joined = continues(before, self.text.get(self.at + 1..).unwrap_or_default());
        if joined {
            self.skip(1);
        } else {
            self.push(Kind::Break, "", 1);
        }
        self.line = self.line.saturating_add(1);
        self.glued = false;
    }

    /// A run of characters that a name may hold, from here.
    fn run(&self, extra: &[char]) -> &'a str {
        let rest = self.rest();
        // No name is longer; without the bound a hostile line would cost its length squared.
        let end = rest
            .char_indices()
            .enumerate()
            .find(|(n, (_, c))| *n == 128 || !(c.is_alphanumeric() || extra.contains(c)))
            .map_or(rest.len(), |(_, (at, _))| at);
        let run = rest.get(..end).unwrap_or_default();
        run.trim_end_matches(['.', '-', '_', '/'])
    }

    fn starts_name(&self) -> bool {
        !self.glued || !matches!(self.tokens.last(), Some(t) if t.kind == Kind::Word)
    }

    fn digits(&mut self) {
        let run = self.run(&['-', '/', '.']);
        if is_date(run) || is_version(run) {
            let len = run.len();
            return self.push(Kind::Other, run, len);
        }
        let len = number_len(self.rest());
        let text: String = self.rest().chars().take(len).filter(|c| !matches!(c, ',' | '_')).collect();
        self.push(Kind::Number, text, len);
        // "16xH100", "2xEP4", "8x H100": the x multiplies.
        let rest = self.rest();
        if rest.starts_with(['x', 'X']) {
            let after: String = rest.chars().skip(1).take(32).take_while(|c| c.is_alphanumeric()).collect();
            let multiplies = after.is_empty()
                || after.starts_with(|c: char| c.is_ascii_digit())
                || vocabulary::is_gpu(&after.to_lowercase())
                || vocabulary::is_axis_word(leading_letters(&after.to_lowercase()))
                || matches!(after.to_lowercase().as_str(), "gpu" | "gpus" | "node" | "nodes" | "nvidia" | "amd");
            if multiplies {
                self.push(Kind::Symbol('×'), "x", 1);
            }
        }
    }

    fn letters(&mut self) {
        if self.starts_name() && self.proper_name() {
            return;
        }
        let run = self.run(&[]);
        let letters = leading_letters(run);
        let lower = letters.to_lowercase();
        let digits_follow = run.len() > letters.len();
        if lower == "x" && (digits_follow || self.multiplies_here()) {
            return self.push(Kind::Symbol('×'), "x", 1);
        }
        if let Some(parts) = axes_joined_by_x(&lower) {
            for part in parts {
                let kind = if part == "x" { Kind::Symbol('×') } else { Kind::Word };
                self.push(kind, part, part.len());
            }
            return;
        }
        if digits_follow {
            return self.word_with_digits(run, letters, &lower);
        }
        for part in camel(letters) {
            self.push(Kind::Word, part.to_lowercase(), part.len());
        }
    }

    /// A lone `x` between things; at the start of a line it is a bullet or a letter.
    fn multiplies_here(&self) -> bool {
        let after = self.rest().chars().nth(1);
        let lone = !after.is_some_and(char::is_alphanumeric);
        lone && matches!(self.tokens.last(), Some(t) if t.kind != Kind::Break)
    }

    fn word_with_digits(&mut self, run: &str, letters: &str, lower: &str) {
        let word = if lower == "mb" { "mbs" } else { lower };
        if vocabulary::takes_glued_number(word) {
            self.push(Kind::Word, word, letters.len());
        } else {
            let len = run.len();
            self.push(Kind::Other, run, len);
        }
    }

    /// A GPU, model or framework that starts here.
    fn proper_name(&mut self) -> bool {
        let run = self.run(&['-', '.', '/', '_']);
        let head = self.rest().get(..run.len().max(16)).unwrap_or(run);
        if let Some((len, short)) = vocabulary::framework_at(&head.to_lowercase()) {
            // Lower-casing may change lengths outside ASCII; the names themselves are ASCII.
            if head.is_char_boundary(len) && !vocabulary::is_model(&run.to_lowercase()) {
                self.push(Kind::Framework, short, len);
                return true;
            }
        }
        let lower = run.to_lowercase();
        let gpu_head = lower.split(['-', '/', '_', '.']).next().unwrap_or_default();
        if vocabulary::is_gpu(gpu_head) {
            let name = self.run(&['-']);
            self.push(Kind::Gpu, name.trim_end_matches(['s', 'S']), name.len());
            return true;
        }
        if vocabulary::is_model(&lower) {
            let end = run.len() + model_tail(self.rest().get(run.len()..).unwrap_or_default());
            let name = self.rest().get(..end).unwrap_or(run);
            self.push(Kind::Model, name, name.len());
            return true;
        }
        if is_version(run) {
            self.push(Kind::Other, run, run.len());
            return true;
        }
        false
    }

    fn sign(&mut self, c: char) {
        let rest = self.rest();
        let first_on_line = matches!(self.tokens.last(), None | Some(Token { kind: Kind::Break, .. }));
        let next = rest.chars().nth(1);
        let len = c.len_utf8();
        match c {
            '`' | '"' | '\'' | '$' | '{' | '}' | '_' | '~' | '‘' | '’' | '“' | '”' => self.skip(len),
            '\\' => match rest.strip_prefix("\\times").or_else(|| rest.strip_prefix("\\cdot")) {
                Some(after) => self.push(Kind::Symbol('×'), "x", rest.len() - after.len()),
                None => self.skip(len),
            },
            '*' if next == Some('*') => self.skip(2),
            '*' | '·' | '•' | '∙' | '⋅' | '×' | '✕' | '⨯' if !first_on_line => {
                let after = rest.get(len..).unwrap_or_default().trim_start_matches([' ', '*']);
                if after.starts_with(|c: char| c.is_alphanumeric() || c == '(') {
                    self.push(Kind::Symbol('×'), "x", len);
                } else {
                    self.skip(len);
                }
            }
            '*' | '·' | '•' | '∙' | '⋅' | '◦' | '▪' => self.skip(len),
            '-' | '=' if next == Some('>') => self.push(Kind::Symbol('→'), "→", 2),
            '=' if next == Some('=') => self.push(Kind::Symbol('='), "=", 2),
            '≈' => self.push(Kind::Symbol('='), "=", len),
            '-' | '–' | '—' | '‑' => self.dash(c, first_on_line),
            _ => self.push(Kind::Symbol(c), c.to_string(), len),
        }
    }

    /// A dash: part of a compound, a bullet, the start of a flag, or a sign of its own.
    fn dash(&mut self, c: char, first_on_line: bool) {
        let len = c.len_utf8();
        let before = self.text.get(..self.at).unwrap_or_default().chars().next_back();
        let after = self.rest().chars().nth(1);
        let letter = |c: Option<char>| c.is_some_and(char::is_alphabetic);
        let flag = !self.glued && (letter(after) || after == Some('-'));
        let compound = letter(before) && letter(after);
        let second = before == Some('-');
        if compound || flag || second || (first_on_line && after == Some(' ')) {
            self.skip(len);
        } else {
            self.push(Kind::Symbol('-'), "-", len);
        }
    }
}

/// Whether the line after a newline goes on with the sentence before it.
fn continues(before: &str, after: &str) -> bool {
    let ends_open = before.ends_with(|c: char| c.is_alphabetic() || c == ',');
    let line = after.split('\n').next().unwrap_or_default();
    let starts_low = line.starts_with(|c: char| c.is_lowercase() || c.is_ascii_digit());
    // "tp: 2" and "2. Memory" are lines of their own.
    let head: String = line.chars().take(48).collect();
    let is_entry = head.find([':', '=']).is_some_and(|at| !head.get(..at).unwrap_or_default().contains(','))
        || head.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(['.', ')']);
    ends_open && starts_low && !is_entry
}

fn leading_letters(run: &str) -> &str {
    let end = run.find(|c: char| !c.is_alphabetic()).unwrap_or(run.len());
    run.get(..end).unwrap_or_default()
}

/// `ppxtpxdp` and `xep` as axes and multiplication signs; `None` when it is any other word.
fn axes_joined_by_x(word: &str) -> Option<Vec<&str>> {
    if !word.contains('x') || !word.is_ascii() {
        return None;
    }
    let mut parts = Vec::new();
    for (n, part) in word.split('x').enumerate() {
        if n > 0 {
            parts.push("x");
        }
        if vocabulary::is_axis_word(part) {
            parts.push(part);
        } else if !part.is_empty() {
            return None;
        }
    }
    parts.iter().any(|p| *p != "x").then_some(parts)
}

/// `tensorParallelSize` as its words. `GPUs` stays whole: one small letter does not start a word.
fn camel(word: &str) -> Vec<&str> {
    let chars: Vec<(usize, char)> = word.char_indices().collect();
    let mut parts = Vec::new();
    let mut start = 0;
    for (n, (at, c)) in chars.iter().enumerate().skip(1) {
        let low = |n: usize| chars.get(n).is_some_and(|(_, c)| c.is_lowercase());
        let after_low = low(n - 1);
        let ends_capitals = !after_low && low(n + 1) && low(n + 2);
        if c.is_uppercase() && (after_low || ends_capitals) {
            parts.push(word.get(start..*at).unwrap_or_default());
            start = *at;
        }
    }
    parts.push(word.get(start..).unwrap_or_default());
    parts
}

/// Bytes of the number at the start of a text: `16`, `1,024`, `1_024`, `41.25`, `4.125e10`.
fn number_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let digits = |mut at: usize| {
        while digit(at) {
            at += 1;
        }
        at
    };
    let mut end = digits(0);
    // A comma groups thousands only when exactly three digits follow, and up to three came before.
    while matches!(bytes.get(end), Some(b',' | b'_'))
        && end <= 15
        && digits(end + 1) == end + 4
        && (bytes.iter().take(end).any(|b| matches!(b, b',' | b'_')) || end <= 3)
        && !text.starts_with('0')
    {
        end += 4;
    }
    if bytes.get(end) == Some(&b'.') && digit(end + 1) {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let last = digits(end + 1 + sign);
        if digit(end + 1 + sign) && !bytes.get(last).is_some_and(u8::is_ascii_alphabetic) {
            end = last;
        }
    }
    end
}

fn is_date(run: &str) -> bool {
    let parts: Vec<&str> = run.split(['-', '/']).collect();
    let numbers = parts.iter().all(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit()));
    let year = |p: &&str| p.len() == 4 && (p.starts_with("19") || p.starts_with("20"));
    numbers && parts.len() == 3 && (parts.first().is_some_and(year) || parts.last().is_some_and(year))
}

fn is_version(run: &str) -> bool {
    let bare = run.strip_prefix(['v', 'V']).unwrap_or(run);
    let parts: Vec<&str> = bare.split('.').collect();
    let numbers = parts.iter().all(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit()));
    numbers && (parts.len() >= 3 || bare.len() < run.len())
}

/// Bytes after a family's name that still belong to the model: " 3.1 405B", " 8x7B", " V3".
fn model_tail(text: &str) -> usize {
    let mut taken = 0;
    while let Some(after) = text.get(taken..).and_then(|t| t.strip_prefix(' ')) {
        let end = after.find(|c: char| !c.is_alphanumeric() && !matches!(c, '.' | '-')).unwrap_or(after.len());
        let word = after.get(..end).unwrap_or_default().trim_end_matches(['.', '-']);
        let lower = word.to_lowercase();
        let size =
            lower.starts_with(|c: char| c.is_ascii_digit()) && lower.ends_with(['b', 't']) && !lower.ends_with("gb");
        let decimal = lower.len() <= 4 && lower.contains('.') && lower.chars().all(|c| c.is_ascii_digit() || c == '.');
        let generation = is_version(&lower) && lower.starts_with('v');
        if !(size || decimal || generation) {
            break;
        }
        taken += 1 + word.len();
        if word.len() < end {
            break;
        }
    }
    taken
}
