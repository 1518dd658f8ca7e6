//! A server that does with each request what its test says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Answers a request, of which it gets the head and the body, on the connection; false closes that.
pub trait Answer: Fn(&str, &[u8], &mut TcpStream) -> bool + Send + Sync + 'static {}

impl<T: Fn(&str, &[u8], &mut TcpStream) -> bool + Send + Sync + 'static> Answer for T {}

/// A request: its head and its body.
pub type Request = (String, Vec<u8>);

/// A server. It listens as long as the test's process lives.
pub struct Scripted {
    pub address: SocketAddr,
    /// Every request that came in whole.
    pub requests: Arc<Mutex<Vec<Request>>>,
    /// Connections that were taken.
    pub connections: Arc<AtomicUsize>,
}

impl Scripted {
    pub fn start(answer: impl Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let scripted = Self { address, requests: Arc::default(), connections: Arc::default() };
        let (requests, connections) = (Arc::clone(&scripted.requests), Arc::clone(&scripted.connections));
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (requests, answer) = (Arc::clone(&requests), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &requests, &*answer));
            }
        });
        scripted
    }

    /// One that answers every request with this status, headers and body.
    pub fn fixed(status: &str, headers: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        Self::start(move |request, _, stream| {
            let sent = stream.write_all(head.as_bytes());
            let body = if request.starts_with("HEAD ") { &[][..] } else { &body };
            sent.and_then(|()| stream.write_all(body)).is_ok()
        })
    }

    pub fn entry(&self) -> String {
        self.address.to_string()
    }

    /// How many requests came in.
    pub fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// The head of the last request.
    pub fn last(&self) -> String {
        self.requests.lock().unwrap().last().map(|(head, _)| head.clone()).unwrap_or_default()
    }
}

fn serve(mut stream: TcpStream, requests: &Mutex<Vec<Request>>, answer: &impl Answer) -> Option<()> {
    // What is written in two steps is sent at once.
    stream.set_nodelay(true).ok()?;
    let mut buffer = Vec::new();
    let mut chunk = [0; 65536];
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read(&mut chunk).ok()? {
                0 => return None,
                n => buffer.extend_from_slice(&chunk[..n]),
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
        while buffer.len() < end + length {
            match stream.read(&mut chunk).ok()? {
                0 => return None,
                n => buffer.extend_from_slice(&chunk[..n]),
            }
        }
        let body = buffer[end..end + length].to_vec();
        buffer.drain(..end + length);
        requests.lock().unwrap().push((head.clone(), body.clone()));
        if !answer(&head, &body, &mut stream) {
            return None;
        }
    }
}
