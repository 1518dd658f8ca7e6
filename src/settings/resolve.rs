//! How often names are looked up: `NAME_RESOLVE`.

use std::time::Duration;

use super::error::{Fault, fault};
use super::parse_duration;

/// What makes DNS servers notice is worth a second; what is an hour old is of no use.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// The time of `interval=T`.
///
/// # Errors
/// Reason and remedy.
pub fn parse_resolve(text: &str) -> Result<Duration, Fault> {
    let (least, most) = BOUNDS;
    let time = text.strip_prefix("interval=").and_then(parse_duration).filter(|time| (least..=most).contains(time));
    time.ok_or_else(|| fault("is not interval=T with a T from 1s to 1h", "correct it or unset the variable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_second_to_an_hour() {
        assert_eq!(parse_resolve("interval=1s"), Ok(Duration::from_secs(1)));
        assert_eq!(parse_resolve("interval=1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_resolve("interval=1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "5s", "interval", "interval=", "interval=0", "interval=999ms", "interval=2h", "interval=5s;x"] {
            assert!(parse_resolve(bad).is_err(), "{bad}");
        }
    }
}
