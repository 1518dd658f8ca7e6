//! The door over TCP (`NGINIT_ADMIN`): servers announce themselves, whoever knows the token, and
//! nothing else comes in.

use std::hint::black_box;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;

use super::desk::{self, Desk, Door};
use super::route::{ANNOUNCE, Refusal, Route};
use super::stream::Listening;
use crate::log::{self, Level};

/// Connections at a time; more wait in the kernel's queue. Many, because whoever knows no token may hold each for as long
/// as a head may take.
const MOST_CONNECTIONS: u32 = 512;

/// Least time between two lines of the log that somebody does not know the token.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Answers on `listener`, which must not block, until the desk's end. Without a token nobody is
/// let in.
///
/// # Errors
/// What keeps it from being served.
pub async fn serve(listener: &TcpListener, token: Option<String>, desk: &Arc<Desk>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
    desk::accept(Listening::Tcp(listener), MOST_CONNECTIONS, Arc::new(Guarded { token, said: Mutex::default() }), desk)
        .await;
    Ok(())
}

/// Lets those in who know the token.
struct Guarded {
    token: Option<String>,
    /// When it was last said that somebody does not.
    said: Mutex<Option<Instant>>,
}

impl Guarded {
    /// Tells the log that somebody does not know the token; not each time, which would fill it.
    fn complain(&self, peer: Option<IpAddr>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() >= COMPLAINT_INTERVAL) {
            *said = Some(Instant::now());
            let from = peer.map_or_else(String::new, |peer| format!(" from {peer}"));
            let text =
                format!("a request{from} without the right token is refused; others within a minute are not told");
            log::line(Level::Warn, "control", &text);
        }
    }
}

impl Door for Guarded {
    fn find(&self, request: &hyper::Request<Incoming>, peer: Option<IpAddr>) -> Result<Route, Refusal> {
        let Some(token) = &self.token else {
            return Err(Refusal::new(403, "nobody is let in: NGINIT_ADMIN_TOKEN is not set"));
        };
        let given = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
        if !given.and_then(bearer).is_some_and(|given| is_same(given, token.as_bytes())) {
            self.complain(peer);
            return Err(Refusal::new(401, "send the header Authorization: Bearer TOKEN, with NGINIT_ADMIN_TOKEN's"));
        }
        if request.uri().path() != ANNOUNCE {
            return Err(Refusal::new(404, "there is only POST /v1/announce here; all else is on the control socket"));
        }
        Route::find(request.method().as_str(), ANNOUNCE, None)
    }
}

/// The token of a header; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Whether the two are the same, in a time that does not tell where they differ.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let pairs = given.iter().zip(token);
    let differing = pairs.fold(0, |differing, (a, b)| black_box(differing | (a ^ b)));
    given.len() == token.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(is_same(b"0123456789abcdef", b"0123456789abcdef"));
        for wrong in [b"" as &[u8], b"0123456789abcde", b"0123456789abcdeF", b"0123456789abcdef0", b"x123456789abcdef"]
        {
            assert!(!is_same(wrong, b"0123456789abcdef"), "{wrong:?}");
        }
    }

    #[test]
    fn a_token_comes_as_bearer() {
        assert_eq!(bearer(b"Bearer x"), Some(b"x" as &[u8]));
        assert_eq!(bearer(b"bearer  x "), Some(b"x" as &[u8]));
        for wrong in [b"" as &[u8], b"Bearer", b"Basic x", b"x", b"Bearerx y"] {
            assert_eq!(bearer(wrong), None);
        }
    }
}
