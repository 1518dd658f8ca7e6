//! Paths, answers and headers. Knows nothing of sockets and signals.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};

use crate::students::{self, Student};

/// Tells which copy of the program answered.
const X_SERVER: HeaderName = HeaderName::from_static("x-server");

/// Longest delay a request may ask for: longer than `docker stop` waits, so both its outcomes can be shown.
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(10);

/// Time between two events, and how many there are before the client has to ask again: no stream may hold up a stop for
/// longer than a slow request does.
const EVENT_PERIOD: Duration = Duration::from_millis(500);
const EVENTS: u32 = 20;

#[derive(Debug, Deserialize)]
struct Options {
    /// How long to think before answering, in milliseconds.
    #[serde(default)]
    delay_ms: u64,
}

/// What is said instead of students.
#[derive(Debug, Serialize)]
struct Failure {
    error: String,
}

type Failed = (StatusCode, Json<Failure>);

fn failed(status: StatusCode, error: String) -> Failed {
    (status, Json(Failure { error }))
}

/// All paths; every answer, errors too, carries `X-Server: name` and must not be cached.
pub(crate) fn router(name: HeaderValue) -> Router {
    Router::new()
        .route("/", get(students))
        .route("/api/student", get(students))
        .route("/api/student/", get(students))
        .route("/api/student/events", get(events))
        .route("/health", get(async || "ok"))
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_such_path)
        .layer(middleware::from_fn_with_state(name, sign))
}

async fn students(options: Result<Query<Options>, QueryRejection>) -> Result<Json<Vec<Student>>, Failed> {
    let Query(Options { delay_ms }) = options.map_err(|err| failed(StatusCode::BAD_REQUEST, err.body_text()))?;
    let delay = Duration::from_millis(delay_ms);
    if delay > MAX_DELAY {
        let limit = MAX_DELAY.as_millis();
        return Err(failed(StatusCode::BAD_REQUEST, format!("\"delay_ms\" is {delay_ms}, the most is {limit}")));
    }
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    Ok(Json(students::random(&mut fastrand::Rng::new())))
}

/// Students as server-sent events, the first at once.
async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::unfold(0, async |sent: u32| {
        if sent == EVENTS {
            return None;
        }
        if sent > 0 {
            tokio::time::sleep(EVENT_PERIOD).await;
        }
        let students = students::random(&mut fastrand::Rng::new());
        // Texts and numbers alone, which JSON can always hold.
        let event = Event::default().id(sent.to_string()).json_data(students).unwrap_or_default();
        Some((Ok(event), sent + 1))
    }))
}

async fn wrong_method() -> Failed {
    failed(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are understood".to_owned())
}

async fn no_such_path(uri: Uri) -> Failed {
    failed(StatusCode::NOT_FOUND, format!("no such path \"{}\"; try \"/api/student\"", uri.path()))
}

async fn sign(State(name): State<HeaderValue>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(X_SERVER, name);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
