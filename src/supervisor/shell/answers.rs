//! What the loop answers to commands, servers that announce themselves, and agents.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::super::servers::Servers;
use super::super::{Doing, Event};
use super::{Shell, state};
use crate::admin::desk::Asked;
use crate::admin::{self, LiveCounts, Ordered, ReloadResult, Reply, Request};
use crate::live::responder::News;
use crate::live::serve::Tally;
use crate::log::{self, Level};
use crate::membership::orders::Refused;
use crate::reload::candidate::Anew;

/// Something that was asked and waits for the outcome of a reload.
#[derive(Debug)]
pub(super) struct Waiter {
    /// That of the reload; nothing, if nginx need only take in what it was told.
    ticket: Option<u64>,
    since: Instant,
    asked: Asked,
    /// What came of the order that it is for.
    ordered: Option<Ordered>,
}

impl Waiter {
    /// Whether the outcome of this reload is what it waits for.
    fn waits_for(&self, ticket: u64) -> bool {
        self.ticket.is_some_and(|own| own <= ticket)
    }

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
                let mut status = reloader.status(state(doing), self.supervisor.generation(), self.pid);
                status.live = self.sockets.as_ref().map(|sockets| counts(&sockets.tally, &reloader.servers));
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
                let ordered = reloader.servers.order(order);
                if order.wait {
                    self.tell_now();
                }
                let Some(reloader) = &mut self.reloader else { return };
                match ordered {
                    Ok(ordered) if order.wait && reloader.servers.settle_now() => {
                        self.wait(asked, Some(ordered));
                        self.todo.push_back(Event::Reload);
                    }
                    Ok(ordered) if order.wait && !reloader.servers.is_taken() => {
                        self.waiters.push(Waiter {
                            ticket: None,
                            since: Instant::now(),
                            asked,
                            ordered: Some(ordered),
                        });
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
        let Some(upstreams) = reloader.servers.upstreams() else { return };
        // They may not have been known when nginx started.
        self.cluster.start(upstreams);
        let snapshot = self.cluster.snapshot(upstreams);
        reloader.servers.gathered(snapshot);
    }

    /// Has it wait for the next reload.
    fn wait(&mut self, asked: Asked, ordered: Option<Ordered>) {
        self.waiters.retain(|waiter| waiter.asked.is_awaited());
        let ticket = Some(self.supervisor.next_ticket());
        self.waiters.push(Waiter { ticket, since: Instant::now(), asked, ordered });
    }

    /// What is left out next time is to blame for a refusal, which is no answer to orders: they wait for the
    /// next reload.
    pub(super) fn postpone_orders(&mut self, ticket: u64) {
        let next = self.supervisor.next_ticket();
        let waiters = self.waiters.iter_mut();
        waiters.filter(|waiter| waiter.ordered.is_some() && waiter.waits_for(ticket)).for_each(|waiter| {
            waiter.ticket = Some(next);
        });
    }

    /// Answers all who wait for the reload of this ticket.
    pub(super) fn answer_waiters(&mut self, ticket: u64, outcome: &admin::Outcome) {
        if outcome.result == ReloadResult::Followed {
            // nginx is about to.
            let waiters = self.waiters.iter_mut().filter(|waiter| waiter.waits_for(ticket));
            waiters.for_each(|waiter| waiter.ticket = None);
            return;
        }
        for waiter in self.waiters.extract_if(.., |waiter| waiter.waits_for(ticket)) {
            waiter.answer(outcome.clone());
        }
    }

    /// Tells nginx at once of what is new.
    fn tell_now(&mut self) {
        let idle = self.is_idle();
        if let Some(reloader) = &mut self.reloader {
            reloader.servers.tell(Instant::now(), idle);
        }
        self.hand_on_zone();
    }

    /// nginx has taken in what it was told; whoever waited for that is answered.
    pub(super) fn followed(&mut self, news: &News) {
        let Some(reloader) = &mut self.reloader else { return };
        reloader.servers.on_news(news);
        self.answer_followers_if_taken();
    }

    /// Answers all who wait for nginx to take in what it was told, if it has. Where it does not, a reload does it for them.
    pub(super) fn answer_followers_if_taken(&mut self) {
        if !self.reloader.as_ref().is_some_and(|reloader| reloader.servers.is_taken()) {
            return;
        }
        let generation = self.supervisor.generation();
        for waiter in self.waiters.extract_if(.., |waiter| waiter.ticket.is_none()) {
            let took_ms = u64::try_from(waiter.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            let result = ReloadResult::Followed;
            waiter.answer(admin::Outcome { result, generation, reason: None, took_ms });
        }
    }

    /// What nginx does not take in waits for a reload.
    pub(super) fn postpone_followers(&mut self) {
        let next = self.supervisor.next_ticket();
        let waiters = self.waiters.iter_mut().filter(|waiter| waiter.ticket.is_none());
        waiters.for_each(|waiter| waiter.ticket = Some(next));
    }
}

/// What nginx follows without a reload.
fn counts(tally: &Tally, servers: &Servers) -> LiveCounts {
    let (upstreams, changes) = servers.followed();
    let [asked, told, refused] = [&tally.asked, &tally.told, &tally.refused].map(|n| n.load(Ordering::Relaxed));
    LiveCounts { upstreams, changes, taken: servers.is_taken(), asked, told, refused }
}

fn refused(refused: Refused) -> Reply {
    let (code, reason) = match refused {
        Refused::Unknown(reason) => (404, reason),
        Refused::Bad(reason) => (400, reason),
        Refused::Full(reason) => (503, reason),
    };
    Reply::Refused { code, reason }
}
