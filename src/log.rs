//! One line an event on stderr, beside nginx's own.
//!
//! nginx's level words, a fixed tag that names the module, then the message. It cannot fail: a
//! log that nobody reads must not end PID 1.

use std::io::Write;
use std::sync::OnceLock;

/// nginx's levels, most severe first (<https://nginx.org/en/docs/ngx_core_module.html#error_log>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The program cannot go on.
    Emerg,
    /// Somebody must act now.
    Alert,
    /// A part is broken.
    Crit,
    /// Something asked for was not done.
    Error,
    /// Done, but perhaps not as meant.
    Warn,
    /// A change of state.
    Notice,
    /// Worth knowing.
    Info,
    /// Why nothing was done.
    Debug,
}

const WORDS: [(&str, Level); 8] = [
    ("emerg", Level::Emerg),
    ("alert", Level::Alert),
    ("crit", Level::Crit),
    ("error", Level::Error),
    ("warn", Level::Warn),
    ("notice", Level::Notice),
    ("info", Level::Info),
    ("debug", Level::Debug),
];

impl Level {
    /// The level that `word` names.
    pub fn from_word(word: &str) -> Option<Self> {
        WORDS.iter().find(|(w, _)| *w == word).map(|(_, level)| *level)
    }

    fn word(self) -> &'static str {
        WORDS.iter().find(|(_, level)| *level == self).map_or("error", |(word, _)| word)
    }
}

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `nginit notice reload: generation 8 published`
    Text,
    /// `{"program":"nginit","level":"notice","module":"reload","message":"generation 8 published"}`
    Json,
}

impl Format {
    /// The form that `word` names.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

static CHOSEN: OnceLock<(Level, Format)> = OnceLock::new();

/// Sets what is logged, once; before that, `info` and more severe as text.
pub fn init(level: Level, format: Format) {
    let _ = CHOSEN.set((level, format));
}

/// Writes one line, if `level` is severe enough. Line breaks in `message` become blanks.
pub fn line(level: Level, module: &str, message: &str) {
    let (least, format) = CHOSEN.get().copied().unwrap_or((Level::Info, Format::Text));
    if level <= least {
        // One write, so that lines of several processes on one pipe do not mix.
        let _ = std::io::stderr().write_all(to_line(format, level, module, message).as_bytes());
    }
}

fn to_line(format: Format, level: Level, module: &str, message: &str) -> String {
    let level = level.word();
    match format {
        Format::Text => {
            let mut line = format!("nginit {level} {module}: ");
            for c in message.trim_end().chars() {
                match c {
                    '\n' => line.push_str(" | "),
                    c if c.is_control() => line.extend(c.escape_default()),
                    c => line.push(c),
                }
            }
            line + "\n"
        }
        Format::Json => {
            let message = json_string(message.trim_end());
            format!("{{\"program\":\"nginit\",\"level\":\"{level}\",\"module\":\"{module}\",\"message\":{message}}}\n")
        }
    }
}

/// A JSON string (RFC 8259 §7).
fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_in_both_forms() {
        assert_eq!(
            to_line(Format::Text, Level::Notice, "reload", "a\nb\u{1b}\n"),
            "nginit notice reload: a | b\\u{1b}\n"
        );
        assert_eq!(
            to_line(Format::Json, Level::Warn, "settings", "\"X\"\n\u{1b}\\"),
            "{\"program\":\"nginit\",\"level\":\"warn\",\"module\":\"settings\",\"message\":\"\\\"X\\\"\\n\\u001b\\\\\"}\n"
        );
    }

    #[test]
    fn levels_are_ordered_and_named_as_in_nginx() {
        assert!(Level::Emerg < Level::Debug);
        for (word, level) in WORDS {
            assert_eq!((Level::from_word(word), level.word()), (Some(level), word));
        }
        assert_eq!(Level::from_word("trace"), None);
    }
}
