//! nginx quoting of every value that a template prints.
//!
//! A value cannot become nginx syntax. What a template prints with `{{ value }}` may hold only
//! characters that mean nothing to nginx, neither bare nor inside a quoted string; anything else
//! fails the rendering with a message. `{{ value | quote }}` makes a whole quoted argument of a
//! text with blanks or quotes. nginx has no way to write a `$` or a line break that its
//! variables and its lexer would leave alone, so those are refused by both.
//!
//! What is nginx's language already is [`Written`], a type that no filter of the template language
//! makes or keeps. The language's own mark of safe texts means nothing here: many filters set it,
//! or carry it over to what they made of the text.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};

/// A text that nginx may read as it stands.
#[derive(Debug)]
pub enum Written {
    /// Parameters or a directive, made of checked parts.
    Directive(String),
    /// One argument in double quotes.
    Argument(String),
}

impl Written {
    /// A directive or parameters, as a value for templates.
    pub fn directive(text: String) -> Value {
        Value::from_object(Self::Directive(text))
    }
}

impl Object for Written {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        let (Self::Directive(text) | Self::Argument(text)) = &**self;
        !text.is_empty()
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Directive(text) | Self::Argument(text)) = &**self;
        f.write_str(text)
    }
}

/// Characters that mean nothing to nginx's lexer in any place (`ngx_conf_read_token` in
/// src/core/ngx_conf_file.c), and none of which starts a variable.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/._:@%+=~,!?&*()[]|^<>-".contains(c)
}

/// Writes what `{{ value }}` stands for.
///
/// # Errors
/// Undefined and none, lists and maps, and texts with a character that nginx would act on.
pub fn write(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    match value.downcast_object_ref::<Written>() {
        Some(Written::Directive(text)) => return Ok(out.write_str(text)?),
        Some(Written::Argument(text)) => return Ok(write!(out, "{START}{text}")?),
        None => {}
    }
    let refuse = |detail: String| Err(Error::new(ErrorKind::InvalidOperation, detail));
    match value.kind() {
        ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Number | ValueKind::Bool => Ok(out.write_str(&value.to_string())?),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            match text.chars().find(|c| !is_plain(*c)) {
                None => Ok(out.write_str(text)?),
                Some(c) => refuse(format!(
                    "a value with the character {c:?} is not printed bare; use the quote filter last, outside of quotes"
                )),
            }
        }
        ValueKind::None => refuse("none is not printed; use the default filter".to_owned()),
        kind => refuse(format!("a {kind} is not printed; print its fields or loop over it")),
    }
}

/// Stands before every quoted argument until [`finish`] has seen what it follows.
const START: char = '\u{1}';

/// The rendered text without marks.
///
/// # Errors
/// What stands in front of a quoted value that is not a blank or "(": nginx takes quotes only where
/// an argument starts.
pub fn finish(text: String) -> Result<String, String> {
    if !text.contains(START) {
        return Ok(text);
    }
    let mut before = ' ';
    for c in text.chars() {
        if c == START && !before.is_ascii_whitespace() && before != '(' {
            return Err(format!("a quoted value follows {before:?}; quote the whole argument"));
        }
        before = c;
    }
    Ok(text.replace(START, ""))
}

/// The `quote` filter: a text as one argument of nginx, in double quotes.
///
/// # Errors
/// Texts with a line break or another control character, with `$`, or that start with a character
/// which ends an argument: in a template that puts its own quotes around the filter, those could
/// leave the argument; all others make nginx refuse such a template.
pub fn quote(value: &Value) -> Result<Value, Error> {
    let refuse = |detail: String| Err(Error::new(ErrorKind::InvalidOperation, detail));
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let text = value.to_string();
    let Some(value) = value.as_str().or_else(|| value.is_number().then_some(text.as_str())) else {
        return refuse("only texts and numbers are quoted".to_owned());
    };
    if let Some(c) = value.chars().find(|c| c.is_control() || *c == '$') {
        return refuse(format!("nginx has no way to quote a value with the character {c:?}"));
    }
    if value.starts_with([' ', ';', '{', '}', ')', '#']) {
        return refuse("a value that starts with a blank or one of ;{})# is not quoted".to_owned());
    }
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\'', "\\'");
    Ok(Value::from_object(Written::Argument(format!("\"{escaped}\""))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_escapes_what_would_end_the_argument() {
        let quote = |text: &str| quote(&Value::from(text));
        assert_eq!(quote("a b;c{d}\"e\\f'#").unwrap().to_string(), "\"a b;c{d}\\\"e\\\\f\\'#\"");
        assert_eq!(quote("").unwrap().to_string(), "\"\"");
        for bad in ["a\nb", "$host", "a$b", " a", ";a", "{a", "\u{0}", "\u{7f}"] {
            assert!(quote(bad).is_err(), "{bad:?}");
        }
    }
}
