//! How fast answers for addresses go out. nginx asks for all addresses of a list before it reads the first answer,
//! and its socket holds some 270 of them; what is lost, it asks for again five seconds later.
//!
//! So each hundredth answer is that the real one is too long for UDP. When nginx asks for it over TCP, it has read
//! all that came before, and the next hundred are sent.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::live::message::Question;

/// So many answers are on their way to one asker at a time.
const AT_ONCE: usize = 100;

/// Whoever asks nothing for so long has read what it was sent.
const QUIET: Duration = Duration::from_secs(1);

/// Whoever asks nothing for so long is not there any more; nginx asks again before.
const GONE: Duration = Duration::from_secs(6);

/// So many answers wait for one asker at most: two for each server at a name.
const MOST_WAITING: usize = 2048;

/// So many wait at most in all.
const MOST_WAITING_IN_ALL: usize = 8192;

/// Most askers that are known at a time. Others are answered at once.
const MOST_WINDOWS: usize = 1024;

/// What is on its way to each asker, and what waits.
#[derive(Debug, Default)]
pub struct Pace {
    windows: Vec<Window>,
    /// How many answers wait in all.
    waiting: usize,
}

#[derive(Debug)]
struct Window {
    /// Whose it is.
    of: SocketAddr,
    /// How many answers have been sent of late.
    sent: usize,
    /// When it last asked.
    last: Instant,
    /// What it is to ask over TCP.
    mark: Option<Question>,
    waiting: VecDeque<(Question, IpAddr)>,
}

impl Window {
    fn answer(&mut self, question: Question, address: IpAddr) -> Vec<u8> {
        self.sent += 1;
        if self.sent < AT_ONCE {
            return question.address(address);
        }
        let answer = question.truncated();
        self.mark = Some(question);
        answer
    }
}

impl Pace {
    /// The answer, if it is to be sent now.
    pub fn take(&mut self, from: SocketAddr, question: Question, address: IpAddr, now: Instant) -> Option<Vec<u8>> {
        self.forget(from, now);
        let at = self.windows.iter().position(|window| window.of == from).unwrap_or(self.windows.len());
        if at >= MOST_WINDOWS {
            return Some(question.address(address));
        }
        if at == self.windows.len() {
            self.windows.push(Window { of: from, sent: 0, last: now, mark: None, waiting: VecDeque::new() });
        }
        let window = &mut self.windows[at];
        window.last = now;
        match &window.mark {
            None => Some(window.answer(question, address)),
            // That answer has been lost.
            Some(mark) if *mark == question => Some(question.truncated()),
            Some(_) => {
                if window.waiting.len() < MOST_WAITING && self.waiting < MOST_WAITING_IN_ALL {
                    window.waiting.push_back((question, address));
                    self.waiting += 1;
                }
                None
            }
        }
    }

    /// The answers that are sent now that this has been asked over TCP.
    pub fn asked_over_tcp(&mut self, question: &Question) -> Vec<(SocketAddr, Vec<u8>)> {
        let marked = self.windows.iter_mut().find(|window| window.mark.as_ref() == Some(question));
        let Some(window) = marked else { return Vec::new() };
        (window.sent, window.mark) = (0, None);
        let mut answers = Vec::new();
        while window.mark.is_none()
            && let Some((question, address)) = window.waiting.pop_front()
        {
            self.waiting -= 1;
            answers.push((window.of, window.answer(question, address)));
        }
        answers
    }

    /// Whether no answers to this one wait.
    pub fn is_empty(&self, to: SocketAddr) -> bool {
        self.windows.iter().all(|window| window.of != to || window.waiting.is_empty())
    }

    /// Forgets what is long ago: of this one, and of all when there are many.
    fn forget(&mut self, from: SocketAddr, now: Instant) {
        let old = |window: &Window| {
            let silent = now.saturating_duration_since(window.last);
            silent >= GONE || (silent >= QUIET && window.mark.is_none())
        };
        let all = self.windows.len() >= MOST_WINDOWS || self.waiting >= MOST_WAITING_IN_ALL;
        self.windows.retain(|window| !(all || window.of == from) || !old(window));
        self.waiting = self.windows.iter().map(|window| window.waiting.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::message::tests::{A, question};

    fn asked(number: usize) -> Question {
        Question::read(&question(number.try_into().unwrap(), "10.0.0.1:80", A)).unwrap()
    }

    fn is_truncated(bytes: &[u8]) -> bool {
        bytes[2] & 2 != 0
    }

    #[test]
    fn a_burst_is_answered_a_hundred_at_a_time() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let [to, other]: [SocketAddr; 2] = ["127.0.0.1:5000", "127.0.0.1:5001"].map(|to| to.parse().unwrap());
        let ip = "10.0.0.1".parse().unwrap();
        let gone: Vec<_> = (1..=250).filter_map(|i| pace.take(to, asked(i), ip, start)).collect();
        assert_eq!(gone.len(), 100);
        assert!(gone[..99].iter().all(|answer| !is_truncated(answer)) && is_truncated(&gone[99]));
        assert!(pace.take(other, asked(1), ip, start).is_some_and(|answer| !is_truncated(&answer)), "another one's");
        assert!(pace.asked_over_tcp(&asked(99)).is_empty(), "not the one that was marked");
        assert!(pace.take(to, asked(100), ip, start).is_some_and(|answer| is_truncated(&answer)), "it was lost");
        let more = pace.asked_over_tcp(&asked(100));
        assert_eq!(more.len(), 100);
        assert!(is_truncated(&more[99].1) && !pace.is_empty(to));
        assert_eq!(pace.asked_over_tcp(&asked(200)).len(), 50);
        assert!(pace.is_empty(to) && pace.waiting == 0);
        let later = start + QUIET;
        let gone = (300..399).filter_map(|i| pace.take(to, asked(i), ip, later));
        assert!(gone.map(|answer| is_truncated(&answer)).eq([false; 99]), "what was sent long ago counts no more");
    }

    #[test]
    fn what_waits_is_bounded_and_whoever_is_gone_is_forgotten() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let ip = "10.0.0.1".parse().unwrap();
        for port in 1..3000 {
            let from = SocketAddr::from(([127, 0, 0, 1], port));
            let asks = if port < 10 { 5000 } else { 1 };
            (0..asks).for_each(|i| drop(pace.take(from, asked(i), ip, start)));
        }
        assert_eq!(pace.windows.len(), MOST_WINDOWS);
        assert_eq!(pace.waiting, MOST_WAITING_IN_ALL);
        let from = SocketAddr::from(([127, 0, 0, 1], 4000));
        assert!(pace.take(from, asked(1), ip, start + GONE).is_some());
        assert_eq!((pace.windows.len(), pace.waiting), (1, 0));
    }
}
