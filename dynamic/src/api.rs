//! Paths, answers and headers. Knows nothing of sockets and signals.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::students::{self, Student};

/// Tells which copy of the program answered.
const X_SERVER: HeaderName = HeaderName::from_static("x-server");

/// Longest delay a request may ask for: longer than `docker stop` waits, so both its outcomes can be shown.
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(10);

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
