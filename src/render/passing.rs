//! How requests are passed on, in nginx's words: what templates get as `upstream.passing`.

use std::time::Duration;

use minijinja::{Value, context};

use super::quote::Written;
use crate::upstream::passing::{Condition, DEFAULT_CONDITIONS, MaxBody, Passing, Retry};

/// The value for templates: texts are empty where the default holds, which then need not be written.
pub fn value(passing: &Passing) -> Value {
    let (next_upstream, tries, tries_timeout) = match &passing.retry {
        Retry::Off => ("off".to_owned(), 0, String::new()),
        Retry::On { more, timeout, on } => {
            let conditions: Vec<String> = on.iter().map(ToString::to_string).collect();
            let next_upstream = if on[..] == DEFAULT_CONDITIONS { String::new() } else { conditions.join(" ") };
            (next_upstream, more.map_or(0, |more| u32::from(more) + 1), time(*timeout))
        }
    };
    let timeouts = passing.timeouts;
    context! {
        next_upstream => Written::directive(next_upstream),
        // A server that cannot be reached is one of the reasons to ask another one.
        next_on_error => matches!(&passing.retry, Retry::On { on, .. } if on.contains(&Condition::Error)),
        tries,
        tries_timeout,
        connect_timeout => time(timeouts.connect),
        read_timeout => time(timeouts.read),
        send_timeout => time(timeouts.send),
        max_body => match passing.max_body {
            MaxBody::Inherited => String::new(),
            MaxBody::Bytes(bytes) => size(bytes),
            MaxBody::Unlimited => "0".to_owned(),
        },
        buffering => passing.buffering,
        keepalive => passing.keepalive.map_or(0, |kept| kept.connections),
        keepalive_timeout => time(passing.keepalive.map(|kept| kept.timeout)),
    }
}

/// A time as nginx writes it, or nothing.
pub fn time(time: Option<Duration>) -> String {
    match time {
        None => String::new(),
        Some(time) if time.subsec_millis() == 0 => format!("{}s", time.as_secs()),
        Some(time) => format!("{}ms", time.as_millis()),
    }
}

/// A size as nginx writes it, in the largest unit that it is a multiple of.
fn size(bytes: u64) -> String {
    let units = [(1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k")];
    let unit = units.into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit));
    unit.map_or_else(|| bytes.to_string(), |(unit, name)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_once_more_where_a_server_that_fails_is_a_reason_to_ask_another() {
        let on = |condition: Condition| Retry::On { more: Some(1), timeout: None, on: vec![condition] };
        for (retry, want) in [
            (Retry::default(), true),
            (on(Condition::Error), true),
            (on(Condition::Timeout), false),
            (on(Condition::Status(503)), false),
            (Retry::Off, false),
        ] {
            let value = value(&Passing { retry: retry.clone(), ..Passing::default() });
            assert_eq!(value.get_attr("next_on_error").unwrap().is_true(), want, "{retry:?}");
        }
    }

    #[test]
    fn times_and_sizes_are_in_the_largest_unit() {
        let ms = |n| time(Some(Duration::from_millis(n)));
        assert_eq!((ms(60_000), ms(1500), time(None)), ("60s".to_owned(), "1500ms".to_owned(), String::new()));
        for (bytes, text) in [(1, "1"), (1024, "1k"), (1025, "1025"), (10 << 20, "10m"), (1 << 40, "1024g")] {
            assert_eq!(size(bytes), text);
        }
    }
}
