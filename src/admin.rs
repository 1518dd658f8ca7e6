//! What can be asked of the running nginit, and what it answers: the types of both ends of the
//! control socket, as JSON, as HTTP and as text for people.
//!
//! The protocol is HTTP/1.1, with JSON in both directions; [`route`] has the table of it.
//! [`socket`] and [`tcp`] let requests in, [`desk`] answers them, [`client`] asks.
//! `docs/control.md` is its manual.

pub mod client;
pub mod desk;
pub mod diff;
pub mod listing;
pub mod orders;
pub mod route;
pub mod socket;
pub mod status;
mod stream;
pub mod tcp;
mod text;
pub mod why;

use serde::{Deserialize, Serialize};

pub use diff::{Diff, FileDiff, ServersDiff};
pub use listing::{Listing, ServerState, ServerView, SourceKind, SourceView, UpstreamView};
pub use orders::{Announcement, Order, Ordered, What};
pub use status::{Draining, LiveCounts, Outcome, Program, ReloadResult, Reloads, State, Status, UpstreamCount};

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// How things are.
    Status,
    /// A reload.
    Reload {
        /// Whether the answer is its outcome, and not only that it was taken.
        wait: bool,
    },
    /// The servers and where they come from.
    List {
        /// Of this upstream alone, as it was typed.
        upstream: Option<String>,
    },
    /// What a reload would change now.
    Diff,
    /// An operator's order.
    Order(Order),
    /// What a server says of itself.
    Announce(Announcement),
    /// What a Serf agent tells.
    Serf(crate::serf::Event),
}

impl Request {
    /// Whether its answer may take as long as a reload.
    pub fn waits(&self) -> bool {
        matches!(self, Self::Reload { wait: true } | Self::Order(Order { wait: true, .. }))
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// How things are.
    Status(Status),
    /// How the reload that was waited for ended.
    Outcome(Outcome),
    /// It was taken, and will be done.
    Accepted,
    /// The servers and where they come from.
    Listing(Listing),
    /// What a reload would change.
    Diff(Diff),
    /// What became of an order or an announcement.
    Ordered(Ordered),
    /// It is not done.
    Refused {
        /// The HTTP status: 404 what there is not, 409 what contradicts, 503 what cannot be now.
        code: u16,
        /// Why, for whoever asked.
        reason: String,
    },
}

impl Reply {
    /// The HTTP status: such that `curl --fail` fails on a reload that was refused.
    pub(crate) fn code(&self) -> u16 {
        let refused = |outcome: &Outcome| outcome.result == ReloadResult::Refused;
        match self {
            Self::Accepted => 202,
            Self::Outcome(outcome) if refused(outcome) => 409,
            Self::Ordered(Ordered { outcome: Some(outcome), .. }) if refused(outcome) => 409,
            Self::Outcome(_) | Self::Status(_) | Self::Listing(_) | Self::Diff(_) | Self::Ordered(_) => 200,
            Self::Refused { code, .. } => *code,
        }
    }

    /// The JSON text.
    ///
    /// # Errors
    /// None for these types; serde's signature.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        match self {
            Self::Status(status) => serde_json::to_string(status),
            Self::Outcome(outcome) => serde_json::to_string(outcome),
            Self::Accepted => Ok(r#"{"result":"accepted"}"#.to_owned()),
            Self::Listing(listing) => serde_json::to_string(listing),
            Self::Diff(diff) => serde_json::to_string(diff),
            Self::Ordered(ordered) => serde_json::to_string(ordered),
            Self::Refused { reason, .. } => Ok(Sorry::to_json(reason)),
        }
    }
}

/// The JSON of an answer that gives only a reason why there is none.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sorry {
    pub(crate) error: String,
}

impl Sorry {
    pub(crate) fn to_json(error: &str) -> String {
        serde_json::to_string(&Self { error: error.to_owned() }).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::route::Route;
    use super::status::tests::{outcome, status};
    use super::*;
    use std::num::NonZeroU16;
    use std::time::Duration;

    fn through_http(request: &Request) -> Request {
        let (method, target) = request.line();
        let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
        let route = Route::find(method, path, query).unwrap();
        let body = request.body().unwrap();
        assert_eq!(route.longest_body().is_some(), !body.is_empty(), "{target}");
        route.request(body.as_bytes(), None).unwrap()
    }

    fn order(what: What, wait: bool) -> Request {
        Request::Order(Order { what, upstream: "dynamic".to_owned(), server: "10.0.0.1:80;backup".to_owned(), wait })
    }

    fn listing() -> Listing {
        Listing { upstreams: vec![listing::tests::upstream()], sources: listing::tests::sources() }
    }

    #[test]
    fn what_one_end_writes_the_other_reads() {
        let outcomes = [ReloadResult::Live, ReloadResult::Unchanged, ReloadResult::Followed, ReloadResult::Refused];
        let waited = outcomes.map(|result| (Request::Reload { wait: true }, Reply::Outcome(outcome(result, None))));
        let states = [State::Running, State::Reloading, State::Waiting, State::Held, State::Quitting, State::Stopping];
        let states = states.map(|state| (Request::Status, Reply::Status(Status { state, ..status() })));
        let ordered = |outcome| Reply::Ordered(Ordered { changed: true, notes: vec!["x".to_owned()], outcome });
        let whats = [What::Add, What::Remove, What::Drain, What::Undrain, What::Weight(NonZeroU16::MAX)];
        let orders = whats.map(|what| (order(what, false), ordered(None)));
        let waits = outcomes.map(|result| (order(What::Drain, true), ordered(Some(outcome(result, Some("no"))))));
        let announcement = Announcement {
            upstream: "X".to_owned(),
            server: Some("x:1".to_owned()),
            port: None,
            ttl: Duration::from_millis(1500),
            weight: NonZeroU16::new(3),
            peer: None,
        };
        let withdrawal = Announcement { ttl: Duration::ZERO, weight: None, ..announcement.clone() };
        let member = r#"{"name":"a","address":"10.0.0.1","role":"web","tags":{"role":"web"}}"#;
        let event = serde_json::from_str(&format!(r#"{{"kind":"join","members":[{member}]}}"#)).unwrap();
        let diff = Diff {
            files: vec![FileDiff { name: "x.conf".to_owned(), diff: "+x".to_owned() }],
            servers: vec![ServersDiff { upstream: "x_backend".to_owned(), ..ServersDiff::default() }],
            reload: true,
        };
        let others = [
            (Request::Reload { wait: false }, Reply::Accepted),
            (Request::List { upstream: None }, Reply::Listing(Listing::default())),
            (Request::List { upstream: Some("x_backend".to_owned()) }, Reply::Listing(listing())),
            (Request::Diff, Reply::Diff(diff)),
            (Request::Announce(announcement), ordered(None)),
            (Request::Announce(withdrawal), Reply::Ordered(Ordered::default())),
            (Request::Serf(event), Reply::Accepted),
        ];
        for (request, reply) in waited.into_iter().chain(states).chain(orders).chain(waits).chain(others) {
            assert_eq!(through_http(&request), request);
            let json = reply.to_json().unwrap();
            assert_eq!(client::read(&request, reply.code(), json.as_bytes()).unwrap(), reply, "{json}");
        }
    }

    #[test]
    fn a_refusal_is_told_with_its_reason() {
        let refused = Reply::Refused { code: 409, reason: "no".to_owned() };
        for request in [Request::Status, order(What::Add, true), Request::List { upstream: None }] {
            let json = refused.to_json().unwrap();
            let err = client::read(&request, refused.code(), json.as_bytes()).unwrap_err();
            assert!(matches!(&err, client::AskError::Refused(reason) if reason == "no"), "{err:?}");
        }
    }

    #[test]
    fn what_no_nginit_would_answer_is_an_error() {
        let error = |request, code, text: &str| client::read(&request, code, text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error(Request::Status, 503, "{\"error\":\"busy\"}"), "busy");
        assert_eq!(error(Request::Status, 502, "<html>"), "status 502");
        assert_eq!(error(Request::Reload { wait: true }, 202, ""), "status 202");
        assert!(error(Request::Status, 200, "{}").starts_with("it is no answer of nginit's: missing field"));
        assert!(error(order(What::Add, true), 200, "{}").starts_with("it is no answer of nginit's: missing field"));
    }

    #[test]
    fn only_what_waits_for_a_reload_waits() {
        assert!(Request::Reload { wait: true }.waits() && order(What::Add, true).waits());
        assert!(!Request::Reload { wait: false }.waits() && !order(What::Add, false).waits());
        assert!(!Request::Status.waits() && !Request::Diff.waits());
    }
}
