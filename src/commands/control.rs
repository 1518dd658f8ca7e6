//! The commands that ask the running nginit.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rustix::termios::tcgetwinsize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use super::print;
use crate::admin::client::{self, AskError};
use crate::admin::why::why as explain;
use crate::admin::{Announcement, Listing, Order, Outcome, ReloadResult, Reply, Request};
use crate::exit::{Failure, Status};
use crate::inputs::Env;
use crate::settings::variables;

/// Longest wait for an answer that takes no time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For spreadsheets.
    Csv,
}

/// Has the running nginit reload, and waits for its outcome if asked to, for as long as `timeout`;
/// zero is for ever.
///
/// # Errors
/// That nobody answers, the reason of a refusal, or that the time is over.
pub fn reload(env: &Env, wait: bool, timeout: Duration, form: Form) -> Result<Status, Failure> {
    let reply = ask(env, &Request::Reload { wait }, timeout)?;
    match &reply {
        Reply::Outcome(outcome) if form == Form::Text => tell(outcome),
        Reply::Accepted if form == Form::Text => print("taken; nginit status tells what came of it\n"),
        Reply::Outcome(outcome) => as_json(&reply).map(|status| ended(outcome, status)),
        _ => as_json(&reply),
    }
}

/// Prints an outcome, or fails with it.
fn tell(outcome: &Outcome) -> Result<Status, Failure> {
    match outcome.result {
        ReloadResult::Refused => Err(Failure::new(Status::Failure, outcome.to_string())),
        ReloadResult::Live | ReloadResult::Unchanged | ReloadResult::Followed => print(&format!("{outcome}\n")),
    }
}

/// The status of a command whose reload had this outcome.
fn ended(outcome: &Outcome, printed: Status) -> Status {
    if outcome.result == ReloadResult::Refused { Status::Failure } else { printed }
}

/// Prints how the running nginit does; as CSV, its servers.
///
/// # Errors
/// That nobody answers.
pub fn status(env: &Env, form: Form) -> Result<Status, Failure> {
    if form == Form::Csv {
        return print(&listing(env, None)?.csv());
    }
    match answer(env, &Request::Status)? {
        Reply::Status(status) if form == Form::Text => print(&status.to_string()),
        reply => as_json(&reply),
    }
}

/// Prints the servers and where they come from.
///
/// # Errors
/// That nobody answers, or that there is no such upstream.
pub fn list(env: &Env, upstream: Option<String>, form: Form) -> Result<Status, Failure> {
    let listing = listing(env, upstream)?;
    match form {
        Form::Text => print(&listing.to_string()),
        Form::Csv => print(&listing.csv()),
        Form::Json => as_json(&Reply::Listing(listing)),
    }
}

/// Prints why a server is there.
///
/// # Errors
/// That nobody answers. That the server is nowhere is a status.
pub fn why(env: &Env, server: &str, form: Form) -> Result<Status, Failure> {
    let why = explain(&listing(env, None)?, server);
    let status = match form {
        Form::Json => {
            let text = serde_json::to_string(&why).map_err(|err| Failure::new(Status::Failure, err.to_string()))?;
            print(&(text + "\n"))?
        }
        _ => print(&why.to_string())?,
    };
    Ok(if why.found.is_empty() { Status::Failure } else { status })
}

/// Prints what a reload would change.
///
/// # Errors
/// That nobody answers, or why a reload would be refused.
pub fn diff(env: &Env, form: Form) -> Result<Status, Failure> {
    match answer(env, &Request::Diff)? {
        Reply::Diff(diff) if form == Form::Text => print(&diff.to_string()),
        reply => as_json(&reply),
    }
}

/// Gives an order, and waits for its reload if it says so.
///
/// # Errors
/// That nobody answers, why it is refused, or that the time is over.
pub fn order(env: &Env, order: Order, timeout: Duration, form: Form) -> Result<Status, Failure> {
    let timeout = if order.wait { timeout } else { ANSWER_TIMEOUT };
    ordered(&ask(env, &Request::Order(order), timeout)?, form)
}

/// Prints what became of an order.
fn ordered(reply: &Reply, form: Form) -> Result<Status, Failure> {
    let Reply::Ordered(ordered) = reply else { return as_json(reply) };
    let status = match (&ordered.outcome, form) {
        (_, Form::Json) => as_json(reply)?,
        (Some(outcome), _) if outcome.result == ReloadResult::Refused => {
            return Err(Failure::new(Status::Failure, ordered.to_string()));
        }
        _ => print(&ordered.to_string())?,
    };
    Ok(ordered.outcome.as_ref().map_or(status, |outcome| ended(outcome, status)))
}

/// Announces a server: once, or every so often until a signal, whereupon it is taken back.
///
/// # Errors
/// That nobody answers, or why it is refused. What goes wrong later is said and tried again.
pub fn announce(env: &Env, announcement: Announcement, every: Option<Duration>, form: Form) -> Result<Status, Failure> {
    if every.is_some_and(|every| every.is_zero() || every >= announcement.ttl) {
        return Err(Failure::new(Status::Usage, "--every must be shorter than --ttl, best a third of it"));
    }
    // Before the first one, so that none is left behind.
    let end = every.map(|_| End::hook()).transpose()?;
    let request = Request::Announce(announcement);
    let first = answer(env, &request).and_then(|reply| ordered(&reply, form));
    let (Some(every), Some(end), Request::Announce(announcement)) = (every, end, &request) else { return first };
    let mut failure = first.err();
    let mut said = false;
    loop {
        if let Some(failure) = failure.as_ref().filter(|_| !said) {
            let _ = writeln!(io::stderr(), "nginit: {failure}; it is tried again every {every:?}");
        }
        said = failure.is_some();
        if end.comes_within(every) {
            break;
        }
        failure = answer(env, &request).err();
    }
    let withdrawal = Announcement { ttl: Duration::ZERO, ..announcement.clone() };
    answer(env, &Request::Announce(withdrawal)).map(|_| Status::Success)
}

/// Shows status and servers every second until a signal; once, where nobody watches.
///
/// # Errors
/// That nobody answers at the beginning.
pub fn top(env: &Env) -> Result<Status, Failure> {
    let look = || {
        let (Reply::Status(status), listing) = (answer(env, &Request::Status)?, listing(env, None)?) else {
            return Err(Failure::new(Status::Failure, "it is no answer to what was asked"));
        };
        Ok(format!("{status}\n{listing}"))
    };
    let first = look()?;
    let mut out = io::stdout();
    if !out.is_terminal() {
        return print(&first);
    }
    let end = End::hook()?;
    let mut frame = first;
    // The other screen, without a cursor, and no line longer than it.
    let _ = out.write_all(b"\x1b[?1049h\x1b[?25l\x1b[?7l");
    loop {
        let rows = tcgetwinsize(&out).map_or(24, |size| usize::from(size.ws_row)).max(1);
        let lines: Vec<&str> = frame.lines().take(rows).collect();
        let text = format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"));
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() || end.comes_within(TOP_INTERVAL) {
            break;
        }
        frame = look().unwrap_or_else(|failure| failure.to_string());
    }
    let _ = out.write_all(b"\x1b[?7h\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
    Ok(Status::Success)
}

/// Time from one look to the next.
const TOP_INTERVAL: Duration = Duration::from_secs(1);

/// The signals that ask for an end.
struct End(mpsc::Receiver<()>);

impl End {
    fn hook() -> Result<Self, Failure> {
        let refuse = |err: io::Error| Failure::new(Status::Failure, format!("signals cannot be caught: {err}"));
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP]).map_err(refuse)?;
        let (tx, rx) = mpsc::channel();
        let wait = move || signals.forever().take_while(|_| tx.send(()).is_ok()).for_each(drop);
        std::thread::Builder::new().spawn(wait).map_err(refuse)?;
        Ok(Self(rx))
    }

    /// Waits for one, for at most `time`.
    fn comes_within(&self, time: Duration) -> bool {
        !matches!(self.0.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }
}

fn as_json(reply: &Reply) -> Result<Status, Failure> {
    let text = reply.to_json().map_err(|err| Failure::new(Status::Failure, err.to_string()))?;
    print(&(text + "\n"))
}

fn listing(env: &Env, upstream: Option<String>) -> Result<Listing, Failure> {
    match answer(env, &Request::List { upstream })? {
        Reply::Listing(listing) => Ok(listing),
        _ => Err(Failure::new(Status::Failure, "it is no answer to what was asked")),
    }
}

/// Asks what is answered at once. Status 2 is for what waits for a reload.
fn answer(env: &Env, request: &Request) -> Result<Reply, Failure> {
    ask(env, request, ANSWER_TIMEOUT).map_err(|failure| Failure { status: Status::Failure, ..failure })
}

/// Asks the nginit that runs beside this one.
pub(super) fn ask(env: &Env, request: &Request, timeout: Duration) -> Result<Reply, Failure> {
    let control = variables::ENV_CONTROL;
    let path = env.text(control).unwrap_or_else(|| variables::DEFAULT_CONTROL.to_owned());
    if path == "off" {
        let reason = format!("{control} is off, so no nginit can be asked; docker kill -s HUP CONTAINER reloads too");
        return Err(Failure::new(Status::Failure, reason));
    }
    let limit = Some(timeout).filter(|time| !time.is_zero());
    client::ask(Path::new(&path), request, limit).map_err(|err| match err {
        AskError::Unreachable(err) => {
            let remedy = match err.kind() {
                io::ErrorKind::PermissionDenied => "run this as the user that nginit runs as".to_owned(),
                _ => format!(
                    "run this inside of nginit's container (docker exec CONTAINER nginit …), with the {control} that it has"
                ),
            };
            Failure::new(Status::Failure, format!("no nginit answers on \"{path}\": {err}; {remedy}"))
        }
        AskError::Timeout => {
            Failure::new(Status::Timeout, format!("no answer on \"{path}\" within {timeout:?}; what was asked for goes on"))
        }
        // It is about what was asked for, not about the socket.
        AskError::Refused(reason) => Failure::new(Status::Failure, reason),
        AskError::Protocol(_) => Failure::new(Status::Failure, format!("\"{path}\": {err}")),
    })
}
