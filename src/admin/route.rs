//! Requests in HTTP: the table of paths, methods and bodies, read and written.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`](super::Status) |
//! | `POST /v1/reload[?wait=true]` | | [`Outcome`](super::Outcome) if it was waited for |
//! | `GET /v1/servers[?upstream=NAME]` | | [`Listing`](super::Listing) |
//! | `GET /v1/diff` | | [`Diff`](super::Diff) |
//! | `POST /v1/add`, `remove`, `drain`, `undrain`, `weight` | an [`Order`] | [`Ordered`](super::Ordered) |
//! | `POST /v1/announce` | an [`Announcement`] | [`Ordered`](super::Ordered) |
//! | `POST /v1/serf` | an [`Event`] | |

use std::borrow::Cow;
use std::net::IpAddr;

use serde::de::DeserializeOwned;

use super::orders::{AnnouncementBody, Kind, OrderBody};
use super::{Announcement, Order, Request};
use crate::serf::Event;

const STATUS: &str = "/v1/status";
const RELOAD: &str = "/v1/reload";
const SERVERS: &str = "/v1/servers";
const DIFF: &str = "/v1/diff";
const SERF: &str = "/v1/serf";

/// Where servers announce themselves, the one path over TCP.
pub(crate) const ANNOUNCE: &str = "/v1/announce";

/// Longest body, in bytes.
const LONGEST_BODY: usize = 64 << 10;

/// The same of what a Serf agent tells, which may be all of its members.
const LONGEST_SERF: usize = 4 << 20;

/// Longest name of an upstream: a NAME of 64 bytes, and `_backend`.
const LONGEST_NAME: usize = 72;

/// Why a request in HTTP asks for nothing that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The status.
    pub(crate) code: u16,
    /// What to say.
    pub(crate) why: Cow<'static, str>,
    /// The methods that there are, where it is the method that there is not.
    pub(crate) allow: Option<&'static str>,
}

impl Refusal {
    /// A refusal for another reason than the method.
    pub(crate) fn new(code: u16, why: impl Into<Cow<'static, str>>) -> Self {
        Self { code, why: why.into(), allow: None }
    }
}

/// What a head asks for; a body may be needed for the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// Nothing is missing.
    Whole(Request),
    /// The body is an order of this kind.
    Order(Kind),
    /// The body is an announcement.
    Announce,
    /// The body is an event.
    Serf,
}

impl Route {
    /// What such a head asks for.
    pub(crate) fn find(method: &str, path: &str, query: Option<&str>) -> Result<Self, Refusal> {
        let refuse = |why: &'static str, methods| Err(Refusal { code: 405, why: why.into(), allow: Some(methods) });
        let order = path.strip_prefix("/v1/").and_then(Kind::from_word);
        match (path, method) {
            (STATUS, "GET" | "HEAD") => Ok(Self::Whole(Request::Status)),
            (STATUS, _) => refuse("a status is asked for with GET", "GET, HEAD"),
            (SERVERS, "GET" | "HEAD") => listed(query).map(|upstream| Self::Whole(Request::List { upstream })),
            (SERVERS, _) => refuse("servers are asked for with GET", "GET, HEAD"),
            (DIFF, "GET" | "HEAD") => Ok(Self::Whole(Request::Diff)),
            (DIFF, _) => refuse("a difference is asked for with GET", "GET, HEAD"),
            (RELOAD, "POST") => match query {
                None | Some("" | "wait=false") => Ok(Self::Whole(Request::Reload { wait: false })),
                Some("wait=true") => Ok(Self::Whole(Request::Reload { wait: true })),
                Some(_) => Err(Refusal::new(400, "only wait=true and wait=false are known here")),
            },
            (RELOAD, _) => refuse("a reload is asked for with POST", "POST"),
            (ANNOUNCE, "POST") => Ok(Self::Announce),
            (ANNOUNCE, _) => refuse("a server announces itself with POST", "POST"),
            (SERF, "POST") => Ok(Self::Serf),
            (SERF, _) => refuse("an event is told with POST", "POST"),
            (_, method) => match order {
                Some(kind) if method == "POST" => Ok(Self::Order(kind)),
                Some(_) => refuse("an order is given with POST", "POST"),
                None => {
                    let gets = "GET /v1/status, /v1/servers, /v1/diff";
                    let posts = "POST /v1/reload, /v1/add, /v1/remove, /v1/drain, /v1/undrain, /v1/weight, \
                                 /v1/announce, /v1/serf";
                    Err(Refusal::new(404, format!("there are {gets} and {posts}")))
                }
            },
        }
    }

    /// The longest body that is read, in bytes; nothing where none is read.
    pub(crate) fn longest_body(&self) -> Option<usize> {
        match self {
            Self::Whole(_) => None,
            Self::Order(_) | Self::Announce => Some(LONGEST_BODY),
            Self::Serf => Some(LONGEST_SERF),
        }
    }

    /// What the whole request asks for. `peer` is who sent it, where that tells an address.
    pub(crate) fn request(self, body: &[u8], peer: Option<IpAddr>) -> Result<Request, Refusal> {
        let refuse = |why: String| Refusal::new(400, why);
        match self {
            Self::Whole(request) => Ok(request),
            Self::Order(kind) => Order::new(kind, read::<OrderBody>(body)?).map(Request::Order).map_err(refuse),
            Self::Announce => {
                let announcement = Announcement::new(read::<AnnouncementBody>(body)?, peer);
                announcement.map(Request::Announce).map_err(refuse)
            }
            Self::Serf => read::<Event>(body).map(Request::Serf),
        }
    }
}

/// A body's JSON.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|err| Refusal::new(400, format!("the body: {err}")))
}

/// The upstream that a query names, if it has one.
fn listed(query: Option<&str>) -> Result<Option<String>, Refusal> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(None) };
    let name = query.strip_prefix("upstream=").filter(|name| is_name(name));
    let refuse = || Refusal::new(400, "only upstream=NAME is known here");
    name.map(|name| Some(name.to_owned())).ok_or_else(refuse)
}

/// Whether `text` may name an upstream, in any of its spellings.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Request {
    /// The request's method and target in HTTP.
    pub(crate) fn line(&self) -> (&'static str, Cow<'static, str>) {
        match self {
            Self::Status => ("GET", STATUS.into()),
            Self::Reload { wait: false } => ("POST", RELOAD.into()),
            Self::Reload { wait: true } => ("POST", "/v1/reload?wait=true".into()),
            Self::List { upstream: None } => ("GET", SERVERS.into()),
            Self::List { upstream: Some(name) } => ("GET", format!("{SERVERS}?upstream={name}").into()),
            Self::Diff => ("GET", DIFF.into()),
            Self::Order(order) => ("POST", format!("/v1/{}", Kind::of(order.what).word()).into()),
            Self::Announce(_) => ("POST", ANNOUNCE.into()),
            Self::Serf(_) => ("POST", SERF.into()),
        }
    }

    /// The request's body in HTTP: JSON, or nothing.
    ///
    /// # Errors
    /// None for these types; serde's signature.
    pub(crate) fn body(&self) -> serde_json::Result<String> {
        match self {
            Self::Status | Self::Reload { .. } | Self::List { .. } | Self::Diff => Ok(String::new()),
            Self::Order(order) => serde_json::to_string(&order.body()),
            Self::Announce(announcement) => serde_json::to_string(&announcement.body()),
            Self::Serf(event) => serde_json::to_string(event),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::What;
    use std::net::Ipv4Addr;
    use std::num::NonZeroU16;
    use std::time::Duration;

    fn post(path: &str, body: &str, peer: Option<IpAddr>) -> Result<Request, (u16, String)> {
        let request = Route::find("POST", path, None).and_then(|route| route.request(body.as_bytes(), peer));
        request.map_err(|refusal| (refusal.code, refusal.why.into_owned()))
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let code = |method, path, query| Route::find(method, path, query).unwrap_err().code;
        for path in ["/", "/v1/", "/v1/status/", "/v1/servers/x", "/v1/Add", "/v1/why", "/v2/status", "/v1/weight/"] {
            assert_eq!(code("GET", path, None), 404, "{path}");
        }
        for path in ["/v1/status", "/v1/servers", "/v1/diff"] {
            assert_eq!(code("POST", path, None), 405, "{path}");
        }
        for word in ["reload", "add", "remove", "drain", "undrain", "weight", "announce", "serf"] {
            let refusal = Route::find("GET", &format!("/v1/{word}"), None).unwrap_err();
            assert_eq!((refusal.code, refusal.allow), (405, Some("POST")), "{word}");
        }
        assert_eq!(code("POST", "/v1/reload", Some("wait=maybe")), 400);
        for query in [
            "x",
            "upstream=",
            "upstream=a&x=1",
            "upstream=%41",
            "upstream=a-b",
            &format!("upstream={}", "x".repeat(73)),
        ] {
            assert_eq!(code("GET", "/v1/servers", Some(query)), 400, "{query}");
        }
    }

    #[test]
    fn an_order_is_a_body() {
        let order =
            |what| Request::Order(Order { what, upstream: "X".to_owned(), server: "a:1".to_owned(), wait: false });
        let plain = r#"{"upstream":"X","server":"a:1"}"#;
        assert_eq!(post("/v1/add", plain, None), Ok(order(What::Add)));
        assert_eq!(post("/v1/drain", plain, None), Ok(order(What::Drain)));
        let three = NonZeroU16::new(3).unwrap();
        let weighed = r#"{"server":"a:1","weight":3,"wait":false,"upstream":"X"}"#;
        assert_eq!(post("/v1/weight", weighed, None), Ok(order(What::Weight(three))));
        let long = format!(r#"{{"upstream":"X","server":"{}"}}"#, "x".repeat(2000));
        for (path, body) in [
            ("/v1/add", ""),
            ("/v1/add", "[]"),
            ("/v1/add", "{}"),
            ("/v1/add", r#"{"upstream":"X"}"#),
            ("/v1/add", r#"{"upstream":"X","server":""}"#),
            ("/v1/add", r#"{"upstream":"","server":"a"}"#),
            ("/v1/add", r#"{"upstream":"a b","server":"a"}"#),
            ("/v1/add", r#"{"upstream":"X","server":"a\u001bb"}"#),
            ("/v1/add", r#"{"upstream":"X","server":"a","wiat":true}"#),
            ("/v1/add", r#"{"upstream":"X","server":"a"} x"#),
            ("/v1/add", weighed),
            ("/v1/add", &long),
            ("/v1/weight", plain),
            ("/v1/weight", r#"{"upstream":"X","server":"a","weight":0}"#),
            ("/v1/weight", r#"{"upstream":"X","server":"a","weight":65536}"#),
            ("/v1/serf", "{}"),
        ] {
            assert_eq!(post(path, body, None).unwrap_err().0, 400, "{path} {body}");
        }
    }

    #[test]
    fn an_announcement_may_leave_the_address_to_the_connection() {
        let peer = Some(IpAddr::from(Ipv4Addr::new(10, 0, 0, 9)));
        let announced = |body, peer| match post("/v1/announce", body, peer) {
            Ok(Request::Announce(announcement)) => Ok(announcement),
            other => Err(other),
        };
        let short = announced(r#"{"upstream":"X","ttl":"15s"}"#, peer).unwrap();
        let want = Announcement {
            upstream: "X".to_owned(),
            server: None,
            port: None,
            ttl: Duration::from_secs(15),
            weight: None,
            peer,
        };
        assert_eq!(short, want);
        assert!(!short.withdraws());
        let port = announced(r#"{"upstream":"X","ttl":"1m","port":8080,"weight":2}"#, peer).unwrap();
        assert_eq!((port.port, port.weight), (NonZeroU16::new(8080), NonZeroU16::new(2)));
        assert!(announced(r#"{"upstream":"X","ttl":"0","server":"a:1"}"#, None).unwrap().withdraws());
        for (body, peer) in [
            (r#"{"upstream":"X","ttl":"15s"}"#, None),
            (r#"{"upstream":"X","ttl":"15s","server":"a:1","port":1}"#, peer),
            (r#"{"upstream":"X"}"#, peer),
            (r#"{"upstream":"X","ttl":15}"#, peer),
            (r#"{"upstream":"X","ttl":"soon"}"#, peer),
            (r#"{"upstream":"X","ttl":"1ms"}"#, peer),
            (r#"{"upstream":"X","ttl":"25h"}"#, peer),
            (r#"{"upstream":"X","ttl":"15s","port":0}"#, peer),
            (r#"{"upstream":"X","ttl":"15s","peer":"10.0.0.1"}"#, peer),
        ] {
            assert!(matches!(announced(body, peer), Err(Err((400, _)))), "{body}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_in_is_refused_or_the_same_when_it_goes_out_again(
            path in "/v1/(status|servers|diff|reload|add|weight|announce|serf|\\PC{0,8})",
            query in proptest::option::of("(upstream=|wait=)?\\PC{0,8}"),
            body in "(\\PC{0,40}|\\{\"upstream\":\"\\PC{0,4}\",\"server\":\"\\PC{0,9}\",\"(ttl|wait|weight|port)\":(true|[0-9]{1,6}|\"[0-9]{1,3}[msh]?\")\\})",
        ) {
            for method in ["GET", "POST", "PUT"] {
                let Ok(route) = Route::find(method, &path, query.as_deref()) else { continue };
                let Ok(request) = route.request(body.as_bytes(), None) else { continue };
                let (method, target) = request.line();
                let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
                let again = Route::find(method, path, query).unwrap().request(request.body().unwrap().as_bytes(), None);
                assert_eq!(again, Ok(request));
            }
        }
    }
}
