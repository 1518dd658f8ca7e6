//! Which members of Serf belong to an upstream: `NAME_SERF_ROLE`.

use super::error::{Fault, fault};

/// The longest role, in bytes: Serf's tags together hold at most 512.
const LONGEST: usize = 128;

/// A role: what Serf's members have as their tag `role`.
///
/// # Errors
/// Reason and remedy.
pub fn parse_role(text: &str) -> Result<String, Fault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.len() <= LONGEST && !text.is_empty() && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        let reason = format!("is not a role: at most {LONGEST} letters, digits, \".\", \"_\" and \"-\"");
        Err(fault(reason, "correct it, and the tag of the members"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_a_word() {
        assert_eq!(parse_role("backend-1.x_Y"), Ok("backend-1.x_Y".to_owned()));
        for bad in ["", "a b", "a,b", "a=b", "é", &"a".repeat(129)] {
            assert!(parse_role(bad).is_err(), "{bad}");
        }
    }
}
