//! The hands of a reload: makes, tests, publishes, confirms and rolls back what the machine in
//! [`super::reload`] says, and counts what came of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};

use super::confirm::{self, Watch, Watched};
use super::generations::Generations;
use super::reload::{Change, Outcome, Unproven};
use super::servers::Servers;
use super::{Ended, Event, Pid, child, clients};
use crate::admin;
use crate::admin::desk::Asked;
use crate::exit::{Failure, Status};
use crate::log::{self, Level};
use crate::nginx::{Nginx, command::Options, reading, verdict};
use crate::reload::candidate::Candidate;
use crate::reload::disk::{Disk, Lock};
use crate::reload::others::Others;
use crate::reload::{self, state};
use crate::render::generation;

/// What a thread tells the loop of a reload.
#[derive(Debug)]
pub enum Told {
    /// A candidate was rendered, or why not, for this ticket.
    Rendered(u64, Box<Result<(Candidate, Change), Failure>>),
    /// What nginx reads besides ours, when the candidate of this number was made.
    Looked(u64, Option<Others>),
    /// Whether the generation of this number answers.
    Confirmed(u64, Result<(), Unproven>),
}

/// Tells the loop; false when there is none any more.
pub trait Tell: Fn(Told) -> bool + Clone + Send + 'static {}

impl<T: Fn(Told) -> bool + Clone + Send + 'static> Tell for T {}

/// How nginx was started, and where its files are.
#[derive(Debug)]
pub struct Setup {
    /// The binary.
    pub nginx: Nginx,
    /// The whole command line.
    pub argv: Vec<OsString>,
    /// nginx's own options in it.
    pub options: Options,
    /// The directives that we gave it in addition.
    pub globals: String,
    /// The main configuration file.
    pub main: PathBuf,
    /// The configuration directory.
    pub disk: Disk,
    /// The socket on which nginx answers its generation, if it can have one.
    pub socket: Option<PathBuf>,
    /// Where nginx's emerg lines go, if we know.
    pub errors: Option<PathBuf>,
    /// Where it tells of clients, if it can.
    pub clients: Option<PathBuf>,
    /// Keeps others from the directory.
    pub lock: Lock,
}

/// A test that runs.
#[derive(Debug)]
struct Tester {
    pid: Pid,
    output: File,
    /// The main file that it reads.
    main: PathBuf,
    /// Paths in its messages, and what they stand for.
    shown: Vec<(String, String)>,
}

/// The reloads of a running nginx.
#[derive(Debug)]
pub struct Reloader {
    setup: Setup,
    /// What candidates are made from.
    pub servers: Servers,
    /// What nginx reads besides ours, when the live generation was made; nothing is not known.
    live_others: Option<Others>,
    others: Option<(u64, Option<Others>)>,
    /// When nginx was told of a new generation.
    told: SystemTime,
    candidate: Option<Candidate>,
    tester: Option<Tester>,
    watch: Option<Watch>,
    /// Whether nginx may tell of clients by now, and who reads it then.
    tapped: bool,
    reader: Option<clients::Reader>,
    generations: Generations,
    /// The live files are proven, and what they replaced is of no use any more.
    proven: bool,
    /// The files of before could not be put back: what is live is not what nginx runs.
    unrestored: bool,
    /// When the run that is under way began.
    began: Instant,
    /// When nginx was started.
    started: SystemTime,
    live_since: Instant,
    /// The files that were published for the start, until nginx answers.
    first_files: Vec<String>,
    /// Looks at what nginx read besides them.
    first_look: Option<JoinHandle<Option<Others>>>,
    counts: admin::Reloads,
    /// The last outcome, and when it came.
    last: Option<(admin::Outcome, Instant)>,
}

impl Reloader {
    /// nginx was just started with `first`, or with what was live before, of which no more is known
    /// than its files and what an earlier run left.
    pub fn new(setup: Setup, first: Option<Candidate>, mut servers: Servers) -> Self {
        // What was live before may be tapped.
        let tapped = first.as_ref().is_none_or(|first| first.tapped);
        let first_files = first.as_ref().map(|first| first.files.keys().cloned().collect()).unwrap_or_default();
        if let Some(first) = first {
            servers.adopt(first, Instant::now());
        }
        Self {
            setup,
            first_files,
            first_look: None,
            servers,
            live_others: None,
            others: None,
            told: SystemTime::now(),
            candidate: None,
            tester: None,
            watch: None,
            tapped,
            reader: None,
            generations: Generations::default(),
            proven: false,
            unrestored: false,
            began: Instant::now(),
            started: SystemTime::now(),
            live_since: Instant::now(),
            counts: admin::Reloads::default(),
            last: None,
        }
    }

    /// Answers what a reload would change.
    pub fn diff(&self, asked: Asked) {
        self.servers.diff(asked, self.setup.disk.clone());
    }

    /// Makes a candidate in a thread of its own: files and names can take their time.
    pub fn render(&mut self, ticket: u64, number: u64, tell: impl Tell) {
        self.began = Instant::now();
        let (disk, make) = (self.setup.disk.clone(), self.servers.take());
        let (socket, live_others) = (self.setup.socket.clone(), self.live_others.clone());
        let first_look = self.first_look.take();
        let (look, unrestored) = (self.looker(), self.unrestored);
        let answer = tell.clone();
        let work = move || {
            let make = || {
                let mut candidate = make(number)?;
                let same = !unrestored && disk.holds(&candidate.files);
                candidate.files.extend(socket.map(|socket| generation::file(number, &socket)));
                Ok((candidate, same))
            };
            let crash = |_| Err(Failure::new(Status::BadConfiguration, "rendering crashed; report this as a bug"));
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(make)).unwrap_or_else(crash) {
                Err(failure) => tell(Told::Rendered(ticket, Box::new(Err(failure)))),
                Ok((candidate, true)) => {
                    let others = look(&candidate.files);
                    // A command may come before that is over.
                    let live_others = live_others.or_else(|| first_look?.join().ok()?);
                    let change = if others.is_some() && others == live_others { Change::Same } else { Change::New };
                    tell(Told::Looked(number, others));
                    tell(Told::Rendered(ticket, Box::new(Ok((candidate, change)))))
                }
                Ok((candidate, false)) => {
                    // The test need not wait for this.
                    let files = candidate.files.clone();
                    tell(Told::Rendered(ticket, Box::new(Ok((candidate, Change::New)))));
                    tell(Told::Looked(number, look(&files)))
                }
            };
        };
        if let Err(err) = thread::Builder::new().name("render".into()).spawn(work) {
            let failed = Err(Failure::new(Status::BadConfiguration, format!("a thread cannot be started: {err}")));
            answer(Told::Rendered(ticket, Box::new(failed)));
        }
    }

    /// Looks at all that nginx reads besides ours.
    fn looker(&self) -> impl Fn(&crate::upstream::Files) -> Option<Others> + Send + use<> {
        let Setup { main, nginx, options, disk, .. } = &self.setup;
        let prefix = options.prefix.clone().unwrap_or_else(|| PathBuf::from(&nginx.facts.prefix));
        let (main, conf_dir, globals) = (main.clone(), disk.live().to_owned(), options.own_globals().to_owned());
        move |files| Others::look(&main, &globals, &prefix, &conf_dir, files)
    }

    /// Keeps the candidate.
    pub fn rendered(&mut self, result: Result<(Candidate, Change), Failure>) -> Result<Change, String> {
        let (candidate, change) = result.map_err(|failure| failure.reason)?;
        self.servers.say(&candidate);
        self.candidate = Some(candidate);
        Ok(change)
    }

    /// Keeps what was looked at for the candidate of this number, unless nginx may have read it
    /// before it became that.
    pub fn looked(&mut self, number: u64, others: Option<Others>) {
        let others = others.filter(|others| self.watch.is_none() || others.are_older_than(self.told));
        self.others = Some((number, others));
    }

    /// Puts the files of before back where that failed, and says whether they are now: nginx may have
    /// read the others meanwhile.
    pub fn restore_again(&mut self) -> bool {
        if !self.unrestored {
            return false;
        }
        self.roll_back();
        !self.unrestored
    }

    /// Stages the candidate and starts its test.
    pub fn test(&mut self) -> Event {
        let start = || -> Result<Tester, String> {
            let Setup { disk, main, options, globals, nginx, .. } = &self.setup;
            let candidate = self.candidate.as_ref().ok_or("there is no candidate")?;
            if self.unrestored {
                return Err("the files of before cannot be put back".to_owned());
            }
            let staged = disk.stage(&candidate.files).and_then(|()| disk.stage_main(&candidate.files, main));
            let staged = staged.map_err(|err| disk.explain(&err))?;
            let args = options.test_args(&staged.main, globals);
            let (pid, output) = child::spawn_test(&nginx.path, &args).map_err(|err| format!("nginx -t: {err}"))?;
            Ok(Tester { pid, output, main: staged.main, shown: staged.shown })
        };
        let started = start();
        self.tester_runs(started)
    }

    /// Starts a test of what nginx has just ended with.
    pub fn test_live(&mut self) -> Event {
        let Setup { main, options, globals, nginx, .. } = &self.setup;
        match child::spawn_test(&nginx.path, &options.test_args(main, globals)) {
            Ok((pid, output)) => {
                let main = main.clone();
                self.tester_runs(Ok(Tester { pid, output, main, shown: Vec::new() }))
            }
            // Then the configuration cannot be blamed.
            Err(_) => Event::Tested(Ok(())),
        }
    }

    fn tester_runs(&mut self, started: Result<Tester, String>) -> Event {
        match started {
            Ok(tester) => Event::TestStarted(self.tester.insert(tester).pid),
            Err(reason) => Event::Tested(Err(reason)),
        }
    }

    /// What the test says, if `pid` is that.
    pub fn tested(&mut self, pid: Pid, ended: Ended) -> Option<Event> {
        let mut tester = self.tester.take_if(|tester| tester.pid == pid)?;
        let mut output = Vec::new();
        let _ = tester.output.rewind().and_then(|()| tester.output.read_to_end(&mut output));
        Some(Event::Tested(match ended {
            Ended::Status(0) => {
                if verdict::warns_of_names(&String::from_utf8_lossy(&output)) {
                    reading::warn_of_unreached(&tester.main, &tester.shown);
                }
                Ok(())
            }
            _ => Err(reading::reason(&output, &tester.main, &tester.shown)),
        }))
    }

    /// Makes the candidate's files the live ones.
    pub fn publish(&mut self) -> Event {
        let Some(candidate) = &self.candidate else {
            return Event::Published(Err("there is no candidate".to_owned()));
        };
        self.servers.prepare(candidate);
        let disk = &self.setup.disk;
        let tapped = candidate.tapped;
        Event::Published(match reload::publish(disk, candidate) {
            Ok(()) => {
                self.proven = false;
                self.tapped |= tapped;
                self.read_clients();
                Ok(())
            }
            Err(failed) => {
                self.unrestored = failed.torn;
                Err(disk.explain(&failed.error))
            }
        })
    }

    /// Reads what nginx tells of clients. It goes on when nginx does not any more: old workers may.
    fn read_clients(&mut self) {
        if let Some(path) = self.setup.clients.clone().filter(|_| self.tapped && self.reader.is_none()) {
            self.reader = clients::read(path).ok();
        }
    }

    /// Watches for the answer of a generation; to be called before nginx is told of it.
    pub fn confirm(&mut self, number: u64, live: u64, master: Pid, tell: impl Tell) -> Option<Event> {
        self.told = SystemTime::now();
        let is_first = number == live;
        let before = if is_first { Vec::new() } else { child::workers(master) };
        self.generations.observe(live, &before);
        // If nginx refuses its first configuration, it ends.
        let errors = self.setup.errors.clone().filter(|_| !is_first);
        if let Some(errors) = &errors {
            // Lines of before count no more. nginx appends, so it goes on at the new end.
            let _ = File::create(errors);
        }
        let watched = Watched { number, socket: self.setup.socket.clone(), before, master, errors };
        let watch = confirm::watch(watched, move |number, result| {
            tell(Told::Confirmed(number, result));
        });
        match watch {
            Ok(watch) => {
                self.watch = Some(watch);
                None
            }
            Err(err) => {
                Some(Event::Confirmed(number, Err(Unproven::Silent(format!("a thread cannot be started: {err}")))))
            }
        }
    }

    /// Watches no longer.
    pub fn stop_confirming(&mut self) {
        self.watch = None;
    }

    /// The live files need no others to fall back on.
    pub fn prove(&mut self) {
        self.watch = None;
        self.proven = true;
        self.servers.has_answered();
        if let Err(err) = self.setup.disk.prove() {
            log::line(Level::Warn, "reload", &format!("the files of before cannot be removed: {err}"));
        }
    }

    /// Makes the files of before the live ones again.
    pub fn roll_back(&mut self) {
        self.watch = None;
        let rolled_back = self.setup.disk.roll_back();
        self.unrestored = rolled_back.is_err();
        self.proven |= rolled_back.is_ok();
        if let Err(err) = rolled_back {
            let text = format!("the files of before cannot be put back: {}", self.setup.disk.explain(&err));
            log::line(Level::Alert, "reload", &text);
        }
    }

    /// Forgets the candidate.
    pub fn drop_candidate(&mut self) {
        self.candidate = None;
        self.tester = None;
        let _ = self.setup.disk.drop_staged();
    }

    /// Starts nginx again, with the files that are live now, because the first ones are refused for
    /// this reason.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub fn restart(&mut self, refused: &str) -> Result<Pid, String> {
        start_last_good(&self.setup, refused).map_err(|failure| failure.reason)
    }

    /// nginx answers for the first time: looks at what it read, and has nothing to tell if that
    /// may have changed since.
    pub fn started(&mut self, tell: impl Tell) {
        let (look, disk, started) = (self.looker(), self.setup.disk.clone(), self.started);
        let (main, published) = (self.setup.main.clone(), std::mem::take(&mut self.first_files));
        let work = move || {
            reload::report_overwritten(&disk, &published);
            reading::warn_of_unreached(&main, &[]);
            let others = disk.ours().ok().and_then(|files| look(&files));
            let others = others.filter(|others| others.are_older_than(started));
            tell(Told::Looked(1, others.clone()));
            others
        };
        // Without it, the first reload is one that need not have been.
        self.first_look = thread::Builder::new().name("look".into()).spawn(work).ok();
        state::keep(self.setup.disk.private(), self.servers.slots());
        let _ = self.setup.disk.drop_staged();
        self.servers.has_answered();
        self.read_clients();
    }

    /// nginx runs and does not answer: from now on, workers have to prove a generation.
    pub fn silent(&mut self) {
        self.watch = None;
        self.setup.socket = None;
        self.read_clients();
    }

    /// What was looked at for the first generation.
    pub fn looked_first(&mut self, others: Option<Others>) {
        self.live_others = others;
    }

    /// Takes over what the outcome of a run means, and says it.
    pub fn report(&mut self, live: u64, outcome: Outcome) -> admin::Outcome {
        let took_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let candidate = self.candidate.take();
        let (result, reason) = match outcome {
            Outcome::Live => {
                let counts = candidate.as_ref().map(Candidate::counts).unwrap_or_default();
                let text = format!("generation {live} live, {counts} took_ms={took_ms}");
                log::line(Level::Notice, "reload", &text);
                self.counts.live += 1;
                self.live_since = Instant::now();
                self.live_others =
                    self.others.take().filter(|(number, _)| *number == live).and_then(|(_, others)| others);
                if let Some(candidate) = candidate {
                    self.servers.adopt(candidate, self.began);
                    state::keep(self.setup.disk.private(), self.servers.slots());
                }
                (admin::ReloadResult::Live, None)
            }
            Outcome::Unchanged => {
                log::line(Level::Debug, "reload", &format!("unchanged, generation {live} stays live"));
                self.counts.unchanged += 1;
                // The same bytes, but other sources may say so.
                if let Some(candidate) = candidate {
                    self.servers.adopt(candidate, self.began);
                }
                (admin::ReloadResult::Unchanged, None)
            }
            Outcome::Refused(reason) => {
                let reason = reason.trim_end();
                log::line(Level::Error, "reload", &format!("refused, generation {live} stays live: {reason}"));
                self.counts.refused += 1;
                self.servers.dismiss();
                (admin::ReloadResult::Refused, Some(reason.to_owned()))
            }
        };
        self.servers.tell(Instant::now(), true);
        let followed = result == admin::ReloadResult::Unchanged && !self.servers.is_taken();
        let result = if followed { admin::ReloadResult::Followed } else { result };
        let _ = self.setup.disk.drop_staged();
        let outcome = admin::Outcome { result, generation: live, reason, took_ms };
        self.last = Some((outcome.clone(), Instant::now()));
        outcome
    }

    /// How many workers each old generation still has.
    pub fn draining(&mut self, live: u64, master: Pid) -> BTreeMap<u64, usize> {
        self.generations.observe(live, &child::workers(master));
        self.generations.draining(live)
    }

    /// Everything that `nginit status` tells.
    pub fn status(&mut self, state: admin::State, live: u64, master: Pid) -> admin::Status {
        let draining = self.draining(live, master).into_iter();
        admin::Status {
            nginit: admin::Program {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id().cast_signed(),
            },
            nginx: admin::Program { version: self.setup.nginx.facts.version.to_string(), pid: master },
            state,
            generation: live,
            live_secs: self.live_since.elapsed().as_secs(),
            upstreams: self.servers.counts(),
            live: None,
            draining: draining.map(|(generation, workers)| admin::Draining { generation, workers }).collect(),
            reloads: self.counts,
            last: self.last.as_ref().map(|(outcome, _)| outcome.clone()),
            last_secs: self.last.as_ref().map(|(_, at)| at.elapsed().as_secs()),
        }
    }

    /// nginit ends: what is not proven is no last good set.
    pub fn end(&mut self) {
        if let Some(tester) = self.tester.take() {
            child::kill_group(tester.pid);
        }
        let _ = self.setup.disk.drop_staged();
        if self.proven {
            self.prove();
        } else {
            self.roll_back();
        }
    }
}

/// Starts nginx with the files that are live, as generation 1, and says so loudly: what was asked for
/// is `refused` for this reason.
///
/// # Errors
/// What keeps it from starting.
pub fn start_last_good(setup: &Setup, refused: &str) -> Result<Pid, Failure> {
    let what = "the first configuration is refused, NGINIT_START=last-good serves what was live last";
    log::line(Level::Error, "nginx", &format!("{what}: {refused}"));
    let refuse = |err| Failure::new(Status::BadConfiguration, setup.disk.explain(&err));
    setup.disk.prepare().map_err(refuse)?;
    if let Some(socket) = &setup.socket {
        let (name, text) = generation::file(1, socket);
        setup.disk.rewrite(&name, &text).map_err(refuse)?;
    }
    child::spawn(&setup.argv, child::Group::Own)
}
