//! The ways in: what the control thread is told by the loop.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use super::super::Doing;
use super::super::reload::Standing;
use super::{Message, Shell, WaysIn};
use crate::admin::socket::Listener;
use crate::control::{Control, Doors};
use crate::dns::Followed;
use crate::live::serve::Sockets;
use crate::log::{self, Level};
use crate::reload::candidate::Anew;
use crate::settings::variables::DEFAULT_CONTROL;

impl Shell {
    /// Lets commands and announcements in. Not before nginx answers: its start is not to wait for ours.
    pub(super) fn open_doors(&mut self) {
        let WaysIn { control, admin } = std::mem::take(&mut self.ways_in);
        let mut doors = Doors::default();
        if let Some(path) = control {
            match Listener::open(&path) {
                Ok(listener) => doors.socket = Some(listener),
                Err(err) => {
                    let what = "commands such as nginit reload will not reach this nginit";
                    let remedy = "set NGINIT_CONTROL to a path in a writable directory, or to off";
                    // Without root, the default is often one that cannot be.
                    let level = if path == Path::new(DEFAULT_CONTROL) { Level::Info } else { Level::Warn };
                    log::line(level, "control", &format!("{what}: \"{}\": {err}; {remedy}", path.display()));
                }
            }
        }
        if let Some(admin) = admin {
            let bound = TcpListener::bind(admin.address);
            match bound.and_then(|listener| listener.set_nonblocking(true).map(|()| listener)) {
                Ok(listener) => doors.admin = Some((listener, admin.token)),
                Err(err) => {
                    let text = format!("\"NGINIT_ADMIN\": no server can announce itself: {}: {err}", admin.address);
                    log::line(Level::Error, "control", &text);
                }
            }
        }
        if doors.socket.is_some() || doors.admin.is_some() {
            self.start_control();
            if let Some(control) = &self.control {
                control.open(doors);
            }
        }
        self.follow_names();
    }

    /// Has the names of the live configuration followed. Not before nginx answers.
    pub(super) fn follow_names(&mut self) {
        let Some(names) = self.reloader.as_mut().and_then(|reloader| reloader.servers.take_names()) else { return };
        if !names.is_empty() {
            self.start_control();
        }
        if let Some(control) = &self.control {
            control.follow(names.into_iter().map(|(lookup, interval)| Followed { lookup, interval }).collect());
        }
    }

    /// Tells nginx of its servers where they have become others.
    pub(super) fn hand_on_zone(&mut self) {
        let Some(zone) = self.reloader.as_mut().and_then(|reloader| reloader.servers.take_zone()) else { return };
        if !zone.is_empty() {
            self.start_control();
        }
        if let Some(control) = &self.control {
            control.tell(zone);
        }
    }

    /// Whether nothing of a candidate is under way.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.supervisor.doing(), Doing::Serving(Standing::Idle | Standing::Waiting | Standing::Held))
    }

    /// Has servers that came or went go live: at once where nginx follows them, and with a reload, once they have
    /// settled, where it does not.
    pub(super) fn settle(&mut self) {
        let (now, idle) = (Instant::now(), self.is_idle());
        let Some(reloader) = &mut self.reloader else { return };
        reloader.servers.tell_if_due(now, idle);
        let settled = reloader.servers.settle(now);
        if settled {
            log::line(Level::Info, "membership", "servers have come or gone, reloading");
        }
        reloader.servers.write_answers(now);
        let late = reloader.servers.give_up_if_late(now, idle);
        if late {
            self.postpone_followers();
        }
        if late || settled {
            self.reload_with(Anew::Nothing);
        }
        self.hand_on_zone();
    }

    fn start_control(&mut self) {
        if self.control.is_some() {
            return;
        }
        match start_control(&self.tx, self.sockets.clone()) {
            Ok(control) => self.control = Some(control),
            Err(err) => log::line(Level::Error, "control", &format!("a thread cannot be started: {err}")),
        }
    }
}

/// Starts the control thread. Where nginx may ask for its servers, it can at once.
///
/// # Errors
/// What keeps a thread from being started.
pub(super) fn start_control(tx: &Sender<Message>, sockets: Option<Arc<Sockets>>) -> io::Result<Control> {
    let tx = tx.clone();
    Control::start(sockets, move |told| tx.send(Message::Control(told)).is_ok())
}
