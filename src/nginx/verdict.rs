//! What `nginx -t` printed becomes a verdict.
//!
//! nginx writes `nginx: [LEVEL] MESSAGE in FILE:LINE`; the first line of a level that refuses is
//! the reason. Paths of the staged copy are shown as the live ones that an operator knows. Pure.

use super::clash::{Clash, Reading};

/// Levels with which nginx refuses a configuration.
const REFUSING: [&str; 4] = ["[emerg]", "[alert]", "[crit]", "[error]"];

/// The reason that nginx gave, in one line, and what to do about it if we know; `output` is its stderr.
/// `shown` says which staged path stands for which live one, and `read` gives what of the files it
/// takes to tell about a clash.
pub fn reason(output: &str, shown: &[(String, String)], read: impl FnOnce(&Clash) -> Reading) -> String {
    let lines = || output.lines().map(str::trim).filter(|l| !l.is_empty());
    let refusing = lines().find_map(|line| {
        let (_, level) = REFUSING.iter().find_map(|level| Some((level, line.find(level)? + level.len())))?;
        Some(without_pid(line[level..].trim()))
    });
    let text = refusing.or_else(|| lines().next_back()).unwrap_or("nginx gave no reason");
    let text = shown.iter().fold(text.to_owned(), |text, (staged, live)| text.replace(staged, live));
    let clash = Clash::of(&text).and_then(|clash| clash.sentence(&read(&clash)));
    match clash.or_else(|| advice(&text).map(str::to_owned)) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

/// Whether nginx warned of servers that take each other's names.
pub fn warns_of_names(output: &str) -> bool {
    output.lines().any(|line| line.contains("[warn]") && line.contains(" conflicting server name "))
}

/// The reason why the process `master` refused a configuration for good, if the error log `log`
/// says so. A port in use is tried several times, each with a line (`ngx_open_listening_sockets`
/// in nginx's src/core/ngx_connection.c), and only the line after the last try is final; the socket of
/// an old listener that somebody removed is none, and a worker's line is not the master's word.
pub fn refusal(log: &str, master: i32) -> Option<String> {
    let own = format!("[emerg] {master}#");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&own)).collect();
    let goes_on = |line: &&&str| ["bind() to ", "listen() to ", "unlink() "].iter().any(|call| line.contains(call));
    lines.iter().any(|line| !goes_on(&line)).then(|| reason(&lines.join("\n"), &[], |_| Reading::default()))
}

/// A message of an error log without its `PID#TID:`.
fn without_pid(message: &str) -> &str {
    let pid = |word: &str| word.bytes().all(|b| b.is_ascii_digit() || b == b'#' || b == b':') && word.contains('#');
    message.split_once(' ').filter(|(word, _)| pid(word)).map_or(message, |(_, rest)| rest)
}

/// What to do about refusals that other people's files cause, where nothing more exact is known.
fn advice(reason: &str) -> Option<&'static str> {
    const GIVEN: &str = "nginit gives nginx daemon, worker_processes and worker_shutdown_timeout unless nginx.conf itself sets \
                         them when nginit starts: set them there, neither in a file that it includes nor by a script that \
                         runs later";
    let known = [
        (
            "duplicate default server",
            "another file makes its server the default of the same port: remove default_server there, or set NGINIT_LISTEN",
        ),
        ("\"daemon\" directive is duplicate", GIVEN),
        ("\"worker_processes\" directive is duplicate", GIVEN),
        ("\"worker_shutdown_timeout\" directive is duplicate", GIVEN),
        ("duplicate upstream", "another file declares the same upstream: rename it there"),
        (
            "directive is not allowed here",
            "files of NGINIT_CONF_DIR belong inside of http { }: include them there, and put directives of other places, \
             such as stream { }, into nginx.conf itself",
        ),
        (
            "cannot load certificate key",
            "the key of nginit's own addresses is NGINIT_TLS_KEY, a PEM file without a passphrase that nginx may read",
        ),
        (
            "cannot load certificate",
            "the certificate of nginit's own addresses is NGINIT_TLS_CERT, a PEM file with its chain that nginx may read",
        ),
        ("key values mismatch", "NGINIT_TLS_KEY must be the key of the first certificate in NGINIT_TLS_CERT"),
        (
            "SSL_CTX_load_verify_locations",
            "NAME_TLS_CA is a PEM file with the certificates of authorities that nginx may read",
        ),
    ];
    known.iter().find(|(text, _)| reason.contains(text)).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_refusal_is_the_reason_with_live_paths() {
        let output = "nginx: [warn] the \"user\" directive makes sense only as root in /etc/nginx/nginx.conf:1\n\
            nginx: [emerg] unknown directive \"x\" in /c/.nginit/new/default.conf:3\n\
            nginx: configuration file /c/.nginit/nginx.conf test failed\n";
        let shown = [("/c/.nginit/new".to_owned(), "/c".to_owned())];
        let reason = |output: &str, shown: &[(String, String)]| reason(output, shown, |_| Reading::default());
        assert_eq!(reason(output, &shown), "unknown directive \"x\" in /c/default.conf:3");
        assert_eq!(reason("odd\n\n", &[]), "odd");
        assert_eq!(reason("", &[]), "nginx gave no reason");
        let twice =
            |directive: &str| reason(&format!("nginx: [emerg] \"{directive}\" directive is duplicate in /x:1\n"), &[]);
        assert!(twice("worker_processes").contains("duplicate in /x:1; nginit gives nginx daemon, worker_processes"));
        assert_eq!(twice("gzip"), "\"gzip\" directive is duplicate in /x:1", "that is not nginit's");
        let stamped = "2026/01/01 00:00:00 [emerg] 1#1: a duplicate default server for 0.0.0.0:80 in /x:1\n";
        let stamped = reason(stamped, &[]);
        assert!(stamped.starts_with("a duplicate") && stamped.contains("remove default_server there"), "{stamped}");
    }
    #[test]
    fn a_warning_of_names_is_known_with_and_without_a_time() {
        assert!(warns_of_names("x\nnginx: [warn] conflicting server name \"a\" on 0.0.0.0:80, ignored\n"));
        assert!(warns_of_names("2026/01/01 00:00:00 [warn] 1#1: conflicting server name \"a\" on 0.0.0.0:80, ignored"));
        assert!(!warns_of_names("nginx: [warn] something else\n"));
    }

    #[test]
    fn a_port_in_use_is_final_after_the_last_try() {
        let tried = "2026/01/01 00:00:00 [emerg] 7#7: bind() to 0.0.0.0:80 failed (98: Address already in use)\n";
        assert_eq!(refusal(tried, 7), None);
        let log = format!("{tried}{tried}2026/01/01 00:00:02 [emerg] 7#7: still could not bind()\n");
        assert_eq!(refusal(&log, 7).as_deref(), Some("bind() to 0.0.0.0:80 failed (98: Address already in use)"));
        assert_eq!(refusal(&log, 8), None, "another process");
        assert_eq!(refusal("", 7), None);
        let gone = "2026/01/01 00:00:00 [emerg] 7#7: unlink() /a.sock failed (2: No such file or directory)\n";
        assert_eq!(refusal(gone, 7), None);
    }
}
