//! The one thread for all that waits for others: nginx, commands, servers that announce themselves, DNS.
//!
//! It is started once something needs it. All it does is send messages to the loop, and whatever becomes of
//! it, nginx never notices: after a crash it begins anew, with the same sockets and the same names.

use std::io;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::admin::desk::{Asked, Desk, FAREWELL_TIMEOUT, PAUSE};
use crate::admin::socket::Listener;
use crate::admin::tcp;
use crate::dns::{self, Followed};
use crate::live::responder::News;
use crate::live::serve::{self as live, Sockets};
use crate::live::zone::Zone;
use crate::log::{self, Level};
use crate::membership::names::Outcome;
use crate::reload::candidate::Ipv6;
use crate::upstream::Lookup;

/// What the thread tells the loop.
#[derive(Debug)]
pub enum Told {
    /// Something is asked.
    Asked(Asked),
    /// Where a name leads.
    Heard(Lookup, Outcome),
    /// What nginx has taken in of its servers.
    Followed(News),
    /// Commands reach us again; some may have been lost.
    Back,
}

/// Where it lets others in.
#[derive(Debug, Default)]
pub struct Doors {
    /// Commands.
    pub socket: Option<Listener>,
    /// Servers that announce themselves, and what they have to know.
    pub admin: Option<(TcpListener, Option<String>)>,
}

/// The thread. Dropped, it answers what still waits, ends, and removes the socket.
#[derive(Debug)]
pub struct Control {
    stop: watch::Sender<bool>,
    names: watch::Sender<Arc<[Followed]>>,
    doors: watch::Sender<Option<Arc<Doors>>>,
    zone: watch::Sender<Arc<Zone>>,
    /// Closed at the thread's end.
    ended: mpsc::Receiver<()>,
}

impl Control {
    /// Starts it. Where nginx may ask for its servers, it can at once. `tell` says whether anybody listens, and must
    /// not block.
    ///
    /// # Errors
    /// What keeps the thread from being started.
    pub fn start(
        sockets: Option<Arc<Sockets>>,
        tell: impl Fn(Told) -> bool + Clone + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (stop, stopping) = watch::channel(false);
        let (names, followed) = watch::channel(Arc::from([]));
        let (doors, opened) = watch::channel(None);
        let (zone, told) = watch::channel(Arc::default());
        let (ended_tx, ended) = mpsc::channel();
        let ask = tell.clone();
        let desk = Arc::new(Desk::new(move |asked| ask(Told::Asked(asked)), stopping));
        let work = move || {
            keep_up(&desk, || {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                let ways = Ways {
                    sockets: sockets.as_deref(),
                    doors: opened.clone(),
                    names: followed.clone(),
                    zone: told.clone(),
                };
                runtime.block_on(serve(ways, &desk, &tell))
            });
            drop(ended_tx);
        };
        thread::Builder::new().name("control".into()).spawn(work)?;
        Ok(Self { stop, names, doors, zone, ended })
    }

    /// Lets others in.
    pub fn open(&self, doors: Doors) {
        self.doors.send_replace(Some(Arc::new(doors)));
    }

    /// Tells nginx of these servers from now on.
    pub fn tell(&self, zone: Arc<Zone>) {
        self.zone.send_replace(zone);
    }

    /// Follows these names and no others.
    pub fn follow(&self, names: Arc<[Followed]>) {
        self.names.send_replace(names);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        // The thread's own limit comes first, unless a message blocks.
        let _ = self.ended.recv_timeout(2 * FAREWELL_TIMEOUT);
        // The thread may still hold its end of the channel, and the socket's file goes with what is in it.
        drop(self.doors.send_replace(None));
    }
}

/// What the thread is told, and where it listens.
struct Ways<'a> {
    sockets: Option<&'a Sockets>,
    doors: watch::Receiver<Option<Arc<Doors>>>,
    names: watch::Receiver<Arc<[Followed]>>,
    zone: watch::Receiver<Arc<Zone>>,
}

/// Everything at once, until the stop.
async fn serve(ways: Ways<'_>, desk: &Arc<Desk>, tell: &impl Fn(Told) -> bool) -> io::Result<()> {
    let Ways { sockets, mut doors, names, zone } = ways;
    let nginx = async {
        let Some(sockets) = sockets else { return Ok(()) };
        let news = |news| _ = tell(Told::Followed(news));
        tokio::select! {
            served = live::serve(sockets, zone, &news) => served,
            () = desk.stopping() => Ok(()),
        }
    };
    let others = async {
        let opened = tokio::select! {
            opened = doors.wait_for(Option::is_some) => opened.ok().and_then(|doors| doors.clone()),
            () = desk.stopping() => None,
        };
        let Some(doors) = opened else { return Ok(()) };
        let socket = async {
            match &doors.socket {
                Some(socket) => socket.serve(desk, || _ = tell(Told::Back)).await,
                None => Ok(()),
            }
        };
        let admin = async {
            match &doors.admin {
                Some((listener, token)) => tcp::serve(listener, token.clone(), desk).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(socket, admin).map(drop)
    };
    let follow = async {
        let names = dns::follow(names, Ipv6::of_kernel() == Ipv6::Routed, |lookup, answer| {
            tell(Told::Heard(lookup, answer.outcome))
        });
        tokio::select! {
            () = names => {}
            () = desk.stopping() => {}
        }
        Ok(())
    };
    let crash = async {
        tokio::select! {
            crash = desk.crashing() => crash,
            () = desk.stopping() => Ok(()),
        }
    };
    tokio::try_join!(nginx, others, follow, crash).map(drop)
}

/// Does `work` until it succeeds or the stop comes, whatever happens: a crash is reported, and the
/// work begins anew.
fn keep_up(desk: &Desk, mut work: impl FnMut() -> io::Result<()>) {
    loop {
        let failed = match catch_unwind(AssertUnwindSafe(&mut work)) {
            Ok(Ok(())) => return,
            Ok(Err(err)) => err.to_string(),
            Err(_) => "it crashed; report this as a bug".to_owned(),
        };
        log::line(Level::Error, "control", &format!("the control thread starts anew: {failed}"));
        let stopped = Builder::new_current_thread()
            .enable_time()
            .build()
            .is_ok_and(|runtime: Runtime| runtime.block_on(async { timeout(PAUSE, desk.stopping()).await.is_ok() }));
        if stopped {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_crashes_begins_anew() {
        let (_stop, stopping) = watch::channel(false);
        let desk = Desk::new(|_| true, stopping);
        let mut times = 0;
        keep_up(&desk, || {
            times += 1;
            match times {
                1 => panic!("a crash, on purpose"),
                2 => Err(io::ErrorKind::OutOfMemory.into()),
                _ => Ok(()),
            }
        });
        assert_eq!(times, 3);
    }

    #[test]
    fn a_stop_ends_the_wait_after_a_crash() {
        let (_, stopping) = watch::channel(false);
        let desk = Desk::new(|_| true, stopping);
        keep_up(&desk, || Err(io::ErrorKind::OutOfMemory.into()));
    }
}
