//! What the loop answers to commands, servers that announce themselves, and agents.

use super::super::{Doing, Event};
use super::{Shell, state};
use crate::admin::desk::Asked;
use crate::admin::{self, Ordered, Reply, Request};
use crate::log::{self, Level};
use crate::membership::orders::Refused;
use crate::reload::candidate::Anew;

/// Something that was asked and waits for the outcome of a reload.
#[derive(Debug)]
pub(super) struct Waiter {
    /// That of the reload.
    ticket: u64,
    asked: Asked,
    /// What came of the order that it is for.
    ordered: Option<Ordered>,
}

impl Waiter {
    /// The reload is over.
    fn answer(self, outcome: admin::Outcome) {
        self.asked.answer(match self.ordered {
            Some(ordered) => Reply::Ordered(Ordered { outcome: Some(outcome), ..ordered }),
            None => Reply::Outcome(outcome),
        });
    }
}

impl Shell {
    /// Answers, at once or when a reload has an outcome.
    pub(super) fn answer(&mut self, asked: Asked) {
        let Some(reloader) = &mut self.reloader else { return };
        let doing = self.supervisor.doing();
        match &asked.request {
            Request::Status => {
                let status = reloader.status(state(doing), self.supervisor.generation(), self.pid);
                asked.answer(Reply::Status(status));
            }
            Request::List { upstream } => {
                let reply = reloader.servers.listing(upstream.as_deref()).map_or_else(refused, Reply::Listing);
                asked.answer(reply);
            }
            // Unanswered, it is told that nginit ends.
            _ if !matches!(doing, Doing::Serving(_)) => {}
            Request::Reload { wait } => {
                log::line(Level::Info, "control", "a command asks for a reload");
                reloader.servers.read_anew(Anew::Everything);
                if *wait {
                    self.wait(asked, None);
                } else {
                    asked.answer(Reply::Accepted);
                }
                self.todo.push_back(Event::Reload);
            }
            Request::Diff => reloader.diff(asked),
            Request::Order(order) => {
                let said = format!("a command says: {} {} {}", order.what, order.upstream, order.server);
                log::line(Level::Info, "control", &said);
                match reloader.servers.order(order) {
                    Ok(ordered) if order.wait && reloader.servers.settle_now() => {
                        self.wait(asked, Some(ordered));
                        self.todo.push_back(Event::Reload);
                    }
                    answer => asked.answer(answer.map_or_else(refused, Reply::Ordered)),
                }
            }
            Request::Announce(announcement) => {
                let answer = reloader.servers.announce(announcement);
                if answer.as_ref().is_ok_and(|ordered| ordered.changed) {
                    let server = announcement.server.as_ref().map_or_else(String::new, |server| format!(" {server}"));
                    let from = announcement.peer.map_or_else(String::new, |peer| format!(" from {peer}"));
                    let what = if announcement.withdraws() { "withdraws" } else { "announces" };
                    let said = format!("a server {what} {}{server}{from}", announcement.upstream);
                    log::line(Level::Info, "control", &said);
                }
                asked.answer(answer.map_or_else(refused, Reply::Ordered));
            }
            Request::Serf(event) => {
                self.cluster.on(event.clone());
                self.gather();
                asked.answer(Reply::Accepted);
            }
        }
    }

    /// Starts what belongs to an nginx that answers.
    pub(super) fn start_others(&mut self) {
        self.sidecars.start();
        if let Some(upstreams) = self.reloader.as_ref().and_then(|reloader| reloader.servers.upstreams()) {
            self.cluster.start(upstreams);
        }
    }

    /// Asks a Serf agent who is there, if that is due.
    pub(super) fn ask_agent(&mut self) {
        if self.sidecars.agent_started() {
            self.cluster.agent_started();
        }
        self.cluster.on_deadline();
    }

    /// Takes in who is in the Serf cluster, or what the upstreams are by now.
    pub(super) fn gather(&mut self) {
        let Some(reloader) = &mut self.reloader else { return };
        if let Some(snapshot) = reloader.servers.upstreams().map(|upstreams| self.cluster.snapshot(upstreams)) {
            reloader.servers.gathered(snapshot);
        }
    }

    /// Has it wait for the next reload.
    fn wait(&mut self, asked: Asked, ordered: Option<Ordered>) {
        self.waiters.retain(|waiter| waiter.asked.is_awaited());
        self.waiters.push(Waiter { ticket: self.supervisor.next_ticket(), asked, ordered });
    }

    /// What is left out next time is to blame for a refusal, which is no answer to orders: they wait for the
    /// next reload.
    pub(super) fn postpone_orders(&mut self, ticket: u64) {
        let next = self.supervisor.next_ticket();
        let waiters = self.waiters.iter_mut();
        waiters.filter(|waiter| waiter.ordered.is_some() && waiter.ticket <= ticket).for_each(|waiter| {
            waiter.ticket = next;
        });
    }

    /// Answers all who wait for the reload of this ticket.
    pub(super) fn answer_waiters(&mut self, ticket: u64, outcome: &admin::Outcome) {
        for waiter in self.waiters.extract_if(.., |waiter| waiter.ticket <= ticket) {
            waiter.answer(outcome.clone());
        }
    }
}

fn refused(refused: Refused) -> Reply {
    let (code, reason) = match refused {
        Refused::Unknown(reason) => (404, reason),
        Refused::Bad(reason) => (400, reason),
        Refused::Full(reason) => (503, reason),
    };
    Reply::Refused { code, reason }
}
