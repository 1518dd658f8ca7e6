//! The one table of variables: name, default, meaning.
//!
//! `nginit help env`, the README's table and the check for misspelt names all come from here.

/// A variable, as a user reads of it.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// `NAME_…` for those of an upstream, else the whole name.
    pub name: &'static str,
    /// What holds when it is unset or empty.
    pub default: &'static str,
    /// What it does, in one sentence.
    pub meaning: &'static str,
}

const fn variable(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, meaning }
}

/// Default of `NAME_PORT`: what `http://HOST` means.
pub const DEFAULT_PORT: &str = "80";
/// The same with TLS: what `https://HOST` means.
pub const DEFAULT_TLS_PORT: &str = "443";
/// Default of `NAME_PROTOCOL`.
pub const DEFAULT_PROTOCOL: &str = "http";
/// Default of `NAME_TLS_VERIFY`: encryption to nobody knows whom protects from little.
pub const DEFAULT_TLS_VERIFY: &str = "on";
/// Default of `STATIC_ROUTE`: everything that no other route takes.
pub const DEFAULT_STATIC_ROUTE: &str = "/";
/// Default of `DYNAMIC_ROUTE`: the demo's one resource, with and without the slash.
pub const DEFAULT_DYNAMIC_ROUTE: &str = "=/api/student =/api/student/";
/// Default of `NAME_REWRITE`: what a server sees is what its client asked for.
pub const DEFAULT_REWRITE: &str = "keep";
/// Default of `NAME_STICKY`.
pub const DEFAULT_STICKY: &str = "off";
/// Where nginx listens.
pub const ENV_LISTEN: &str = "NGINIT_LISTEN";
/// Default of `NGINIT_LISTEN`: every address of both families; the IPv6 one is left out where the
/// kernel has no IPv6.
pub const DEFAULT_LISTEN: &str = "80 [::]:80";
/// The same with a certificate.
pub const DEFAULT_TLS_LISTEN: &str = "80 [::]:80 443;tls [::]:443;tls";
/// The file of the certificate.
pub const ENV_TLS_CERT: &str = "NGINIT_TLS_CERT";
/// The file of its key.
pub const ENV_TLS_KEY: &str = "NGINIT_TLS_KEY";
/// The port of https that clients of plain HTTP are sent to.
pub const ENV_TLS_REDIRECT: &str = "NGINIT_TLS_REDIRECT";
/// Default of `NGINIT_TLS_REDIRECT`: what `https://HOST` means.
pub const DEFAULT_TLS_REDIRECT: &str = "443";
/// The proxies in front of nginx whose word on clients counts.
pub const ENV_TRUSTED_PROXIES: &str = "NGINIT_TRUSTED_PROXIES";
/// How they tell a client's address.
pub const ENV_REAL_IP_HEADER: &str = "NGINIT_REAL_IP_HEADER";
/// Default of `NGINIT_REAL_IP_HEADER`: what nearly every proxy sends.
pub const DEFAULT_REAL_IP_HEADER: &str = "X-Forwarded-For";
/// Default of `NGINIT_WATCH`: who renews a certificate wants it to be used.
pub const DEFAULT_WATCH: &str = "true";
/// Default of `NGINIT_LIVE`: what loses nothing by it is followed so.
pub const DEFAULT_LIVE: &str = "auto";
/// Where the configuration is written to.
pub const ENV_CONF_DIR: &str = "NGINIT_CONF_DIR";
/// Default of `NGINIT_CONF_DIR`: what the official image's nginx.conf includes.
pub const DEFAULT_CONF_DIR: &str = "/etc/nginx/conf.d";
/// Default of `NGINIT_TEMPLATES`.
pub const DEFAULT_TEMPLATES: &str = "/etc/nginit/templates";
/// nginx's binary. Named here, because whether a command is nginx is decided before all settings
/// are read.
pub const ENV_NGINX: &str = "NGINIT_NGINX";
/// Default of `NGINIT_NGINX`.
pub const DEFAULT_NGINX: &str = "the command's own, else `nginx`";
/// Default of `NGINIT_STOP`: what a user of `docker stop` expects.
pub const DEFAULT_STOP: &str = "graceful";
/// Default of `NGINIT_STOP_TIMEOUT`. Nine, because `docker stop` kills after ten and our own last
/// line should reach the log.
pub const DEFAULT_STOP_TIMEOUT: &str = "9s";
/// Default of `NGINIT_RELOAD_INTERVAL`: what an operator takes for at once, and few enough workers
/// for a source that never rests.
pub const DEFAULT_RELOAD_INTERVAL: &str = "1s";
/// Default of `NGINIT_RELOAD_BACKLOG`: each old generation is a whole set of workers with their
/// memory.
pub const DEFAULT_RELOAD_BACKLOG: &str = "4";
/// Default of `NGINIT_WORKER_SHUTDOWN_TIMEOUT`. Without one, a worker with an open WebSocket stays
/// for ever; half a minute is longer than most requests and uploads.
pub const DEFAULT_WORKER_SHUTDOWN_TIMEOUT: &str = "`30s`, or NGINIT_STOP_TIMEOUT where that is longer";
/// What to do about a bad first configuration. Named here, because it counts where the settings
/// themselves are bad.
pub const ENV_START: &str = "NGINIT_START";
/// Default of `NGINIT_START`: nobody should take an old state for the new one.
pub const DEFAULT_START: &str = "fail";
/// Where the commands reach the running nginit. Named here, because they read no other setting.
pub const ENV_CONTROL: &str = "NGINIT_CONTROL";
/// Default of `NGINIT_CONTROL`.
pub const DEFAULT_CONTROL: &str = "/run/nginit/control.sock";
/// Default of `NGINIT_WORKERS`: the container's CPU quota.
pub const DEFAULT_WORKERS: &str = "auto";
/// Default of `NGINIT_ACCESS_LOG`.
pub const DEFAULT_ACCESS_LOG: &str = "text";
/// Default of `NGINIT_ACCESS_LOG_FLUSH`: a line a request costs nginx some 15 % of its throughput, a
/// buffer 3 %, and a second is what nobody who follows a log minds.
pub const DEFAULT_ACCESS_LOG_FLUSH: &str = "1s";
/// Default of `NGINIT_REQUEST_ID`: sixteen random bytes cost nginx nearly as much as its whole log.
pub const DEFAULT_REQUEST_ID: &str = "off";
/// Default of `NGINIT_GZIP`.
pub const DEFAULT_GZIP: &str = "on";
/// Default of `NGINIT_ERROR_PAGES`.
pub const DEFAULT_ERROR_PAGES: &str = "/etc/nginit/errors";
/// A file of variables, which win over those of the environment.
pub const ENV_ENV_FILE: &str = "NGINIT_ENV_FILE";
/// Where nginit answers over TCP. Named here, because faults name it.
pub const ENV_ADMIN: &str = "NGINIT_ADMIN";
/// Default of `NGINIT_ADMIN`: nobody is to be surprised by an open port.
pub const DEFAULT_ADMIN: &str = "off";
/// What lets in over TCP.
pub const ENV_ADMIN_TOKEN: &str = "NGINIT_ADMIN_TOKEN";
/// What is kept over a restart.
pub const ENV_STATE: &str = "NGINIT_STATE";
/// Default of `NGINIT_STATE`: after a restart, the environment alone counts.
pub const DEFAULT_STATE: &str = "off";
/// How the names of sidecars' variables begin.
pub const SIDECAR: &str = "NGINIT_SIDECAR_";
/// Default of `NAME_RESOLVE`.
pub const DEFAULT_RESOLVE: &str = "what DNS says, between `1s` and `30s`; `1s` of Docker's own names";
/// Default of `NGINIT_LOG`.
pub const DEFAULT_LOG: &str = "info";
/// Default of `NGINIT_LOG_FORMAT`.
pub const DEFAULT_LOG_FORMAT: &str = "text";

/// Variables of an upstream.
pub const UPSTREAM: &[Variable] = &[
    variable(
        "NAME_BACKEND",
        "",
        "servers of the upstream `name_backend`: `HOST[:PORT]`, `IP[:PORT]`, `[IPv6][:PORT]`, `srv:NAME` or `unix:/PATH`, separated by blanks, commas or newlines, each with `;weight=N`, `;max_conns=N`, `;max_fails=N`, `;fail_timeout=T`, `;backup`, `;down`, `;drain`; `#` starts a comment. A NAME other than STATIC and DYNAMIC counts once it has a NAME_ROUTE",
    ),
    variable(
        "NAME_ROUTE",
        "`/` for static; `=/api/student =/api/student/` for dynamic",
        "which requests it gets: a list of `[HOST]/prefix` or `[HOST]=/exact`, or a rule in Traefik's grammar such as `Host(\"a.example\") && PathPrefix(\"/api\")` or `Host:a.example;PathPrefixStrip:/api`; where several take a request, the longest text wins; `none` where only templates of your own use it",
    ),
    variable(
        "NAME_REWRITE",
        DEFAULT_REWRITE,
        "what becomes of the path: `keep`, `strip` takes off the route's own path, and a `/path` takes its place; the query stays",
    ),
    variable("NAME_PORT", "`80`; `443` for https and grpcs", "port of servers that name none"),
    variable(
        "NAME_BALANCE",
        "`ip_hash` for static without a cookie, else `round_robin`",
        "`round_robin`, `least_conn`, `random`, `ip_hash` or `hash KEY [consistent]`",
    ),
    variable(
        "NAME_STICKY",
        DEFAULT_STICKY,
        "whether a client stays with its server: `off`; `cookie[=NAME]` with any of `;secure`, `;samesite=strict` (or `lax`, `none`), `;path=/…`, `;domain=…`, `;expires=T` (or `max`), `;hash`; `ip`, which is `ip_hash`; or `ip consistent`, a ring",
    ),
    variable(
        "NAME_RETRY",
        "every other server, once, after `error,timeout`",
        "how many further servers are asked at most when one fails: `N[;timeout=T][;on=COND,…]` or `off`; COND is `error`, `timeout`, `invalid_header`, `http_403`, `http_404`, `http_429`, `http_500`, `http_502`, `http_503` or `http_504`. A request that may change something twice is never sent twice",
    ),
    variable(
        "NAME_TIMEOUT",
        "`connect=5s;read=60s;send=60s`",
        "longest waits for a server: for the connection, and between two reads or writes; some of `connect=T;read=T;send=T`, or `T` for the latter two",
    ),
    variable(
        "NAME_KEEPALIVE",
        "64;timeout=1s",
        "idle connections to servers that each worker keeps, and how long: `N[;timeout=T]` or `off`",
    ),
    variable(
        "NAME_MAX_BODY",
        "nginx's: `1m`",
        "largest body of a request, in bytes or with `k`, `m` or `g`, or `off`; a larger one gets 413",
    ),
    variable(
        "NAME_BUFFERING",
        "on",
        "`off` passes answers on as they come, for server-sent events and long polling; a server can ask for that itself, with `X-Accel-Buffering: no`",
    ),
    variable("NAME_PROTOCOL", DEFAULT_PROTOCOL, "what its servers speak: `http`, `https`, `grpc` or `grpcs`"),
    variable("NAME_TLS_VERIFY", DEFAULT_TLS_VERIFY, "`off` takes any certificate of an https or grpcs server"),
    variable(
        "NAME_TLS_NAME",
        "the `HOST` of its servers, where all have the same",
        "host name that is sent to https and grpcs servers, and that their certificate must have",
    ),
    variable(
        "NAME_TLS_CA",
        "those of the system, in `/etc/ssl` or `/etc/pki`",
        "absolute path of a PEM file with the authorities that certificates of https and grpcs servers must come from",
    ),
    variable(
        "NAME_RESOLVE",
        DEFAULT_RESOLVE,
        "how often host names and `srv:` names of its servers are looked up: `interval=T`, from `1s` to `1h`",
    ),
    variable(
        "NAME_SERF_ROLE",
        "the NAME in lower case",
        "the tag `role` of those members of Serf that are servers of it, at the port of their tag `port`, or NAME_PORT",
    ),
];

/// Variables of nginit itself.
pub const NGINIT: &[Variable] = &[
    variable(
        ENV_LISTEN,
        "`80 [::]:80`; with a certificate also `443;tls [::]:443;tls`",
        "where nginx listens: a list of `PORT`, `IP:PORT` or `[IPv6]:PORT`, each with `;tls`, `;http2` (without TLS; gRPC clients on nginx before 1.25.1), `;proxy_protocol`",
    ),
    variable(
        ENV_TLS_CERT,
        "",
        "absolute path of the certificate of `;tls` addresses, a PEM file with its chain; it is read anew when it changes",
    ),
    variable(ENV_TLS_KEY, "", "absolute path of the key of that certificate"),
    variable(
        ENV_TLS_REDIRECT,
        DEFAULT_TLS_REDIRECT,
        "port of https that requests on addresses without `;tls` are redirected to, where there are such with it; `off` serves on both",
    ),
    variable(
        ENV_TRUSTED_PROXIES,
        "",
        "addresses and networks of proxies in front of nginx, such as `10.0.0.0/8`: what they say of the client counts",
    ),
    variable(
        ENV_REAL_IP_HEADER,
        "`X-Forwarded-For`; `proxy_protocol` where all addresses speak that",
        "how trusted proxies tell the client's address: the name of a header, or `proxy_protocol`",
    ),
    variable(
        "NGINIT_WATCH",
        DEFAULT_WATCH,
        "`false` does not follow files: those of NAME_BACKEND_FILE and other `_FILE` variables, NGINIT_ENV_FILE, templates, error pages and certificates are then read on HUP alone",
    ),
    variable(
        "NGINIT_LIVE",
        DEFAULT_LIVE,
        "whether nginx 1.27.3 or newer follows servers that come and go without a reload: `auto` for all but ip_hash, hash without consistent, and cookies that nginit computes; `on` also for ip_hash and hash, where a change then moves clients, and refused where it cannot be; `off` never: each change reloads nginx",
    ),
    variable(
        ENV_ENV_FILE,
        "",
        "absolute path of a file of variables, a `NAME=VALUE` a line; they win over those of the environment, and are read anew when the file changes",
    ),
    variable(
        ENV_CONF_DIR,
        DEFAULT_CONF_DIR,
        "directory that the configuration is written to; nginx.conf must include its `*.conf`",
    ),
    variable(
        "NGINIT_TEMPLATES",
        DEFAULT_TEMPLATES,
        "directory of templates that replace the built-in ones or add to them; it need not exist",
    ),
    variable(ENV_NGINX, DEFAULT_NGINX, "nginx's binary: a path, or a name looked up in `PATH`"),
    variable(
        ENV_START,
        DEFAULT_START,
        "what a start does with a bad configuration: `fail` ends with its reason, `last-good` serves the set of NGINIT_CONF_DIR that was live last, if there is one",
    ),
    variable(
        "NGINIT_RELOAD_INTERVAL",
        DEFAULT_RELOAD_INTERVAL,
        "least time between two reloads of nginx; what is asked for in between is one reload at its end; `0` spaces none",
    ),
    variable(
        "NGINIT_RELOAD_BACKLOG",
        DEFAULT_RELOAD_BACKLOG,
        "reloads wait while more than this many old generations of workers still finish requests; `0` never waits",
    ),
    variable(
        "NGINIT_WORKER_SHUTDOWN_TIMEOUT",
        DEFAULT_WORKER_SHUTDOWN_TIMEOUT,
        "longest wait for requests that run in old workers after a reload, and in all at a stop; `0` waits for ever; where nginx.conf sets worker_shutdown_timeout, that counts",
    ),
    variable(
        "NGINIT_STOP",
        DEFAULT_STOP,
        "what TERM does: `graceful` lets running requests finish, `forward` passes TERM on, which is nginx's fast stop",
    ),
    variable(
        "NGINIT_STOP_TIMEOUT",
        DEFAULT_STOP_TIMEOUT,
        "longest wait for running requests at a stop, then nginx is stopped fast; `0` waits for ever",
    ),
    variable(
        "NGINIT_WORKERS",
        DEFAULT_WORKERS,
        "nginx's worker processes: a number, or `auto` for the container's CPU quota; where nginx.conf sets worker_processes, that counts",
    ),
    variable(
        ENV_CONTROL,
        DEFAULT_CONTROL,
        "unix socket over which commands such as `nginit status` and `nginit add` reach the running nginit, open to its own user alone; `off` is none",
    ),
    variable(
        ENV_STATE,
        DEFAULT_STATE,
        "absolute path of a file that keeps over a restart what commands have ordered and what servers have announced; `off` forgets it",
    ),
    variable(
        ENV_ADMIN,
        DEFAULT_ADMIN,
        "`IP:PORT` or `[IPv6]:PORT` where servers announce themselves over TCP, each with NGINIT_ADMIN_TOKEN; an address outside of loopback needs that token; `off` is none",
    ),
    variable(
        ENV_ADMIN_TOKEN,
        "",
        "what whoever announces a server over TCP has to know: 16 to 256 visible characters, best by NGINIT_ADMIN_TOKEN_FILE",
    ),
    variable(
        "NGINIT_SIDECAR_NAME",
        "",
        "command that is kept running beside nginx, such as a Serf agent or a log shipper: its words as a shell would split them; NAME stands before each line of its output",
    ),
    variable("NGINIT_ACCESS_LOG", DEFAULT_ACCESS_LOG, "access log on the container's output: `text`, `json` or `off`"),
    variable(
        "NGINIT_ACCESS_LOG_FLUSH",
        DEFAULT_ACCESS_LOG_FLUSH,
        "how long lines of the access log may be kept back to be written together; `0` writes each line at once, which costs throughput",
    ),
    variable(
        "NGINIT_REQUEST_ID",
        DEFAULT_REQUEST_ID,
        "`on` gives each request that comes without an `X-Request-ID` one, for servers and the access log; `off` passes on what the client sent",
    ),
    variable(
        "NGINIT_GZIP",
        DEFAULT_GZIP,
        "`on` compresses texts of 1,024 bytes and more that servers did not compress, `off` nothing",
    ),
    variable(
        "NGINIT_ERROR_PAGES",
        DEFAULT_ERROR_PAGES,
        "directory of pages for what nginx itself answers, named by status: `404.html`, `413.html`, `502.html`, `503.html`, `504.html` and so on; it need not exist",
    ),
    variable(
        "NGINIT_LOG",
        DEFAULT_LOG,
        "what nginit itself logs, at least: `emerg`, `alert`, `crit`, `error`, `warn`, `notice`, `info` or `debug`",
    ),
    variable("NGINIT_LOG_FORMAT", DEFAULT_LOG_FORMAT, "form of nginit's own lines: `text` or `json`"),
];

/// Older spellings: what is set, what is meant.
pub const ALIASES: &[(&str, &str)] = &[("STATIC_APP", "STATIC_BACKEND"), ("DYNAMIC_APP", "DYNAMIC_BACKEND")];

/// The name by which a variable goes that has several: without `_FILE`, and not the older spelling.
pub fn spelling_of(name: &str) -> &str {
    let base = if name == ENV_ENV_FILE { name } else { name.strip_suffix("_FILE").unwrap_or(name) };
    ALIASES.iter().find(|(old, _)| *old == base).map_or(base, |(_, new)| new)
}

/// What holds for every variable, said below the table.
pub const FOOTNOTE: &str = "Any variable also works with `_FILE` appended: its value is then read from the file of that name, at the start, when it changes and on every HUP. What is `on` or `off` may be written `true` or `false`. An empty variable counts as unset. `# none` is a list without servers: until they come from elsewhere, the upstream answers 503.";

/// All variables, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Variable> {
    UPSTREAM.iter().chain(NGINIT)
}

/// The table as Markdown, for the README.
pub fn markdown() -> String {
    let mut out = String::from("| variable | default | meaning |\n|---|---|---|\n");
    for v in all() {
        let default = match v.default {
            "" => "none".to_owned(),
            text if text.contains('`') => text.to_owned(),
            text => format!("`{text}`"),
        };
        out.push_str(&format!("| `{}` | {default} | {} |\n", v.name, v.meaning));
    }
    out.push_str(&format!("\n{FOOTNOTE}\n"));
    out
}

/// The table for a terminal of `width` columns.
pub fn terminal(width: usize) -> String {
    let mut out = String::new();
    for v in all() {
        let default = if v.default.is_empty() { "no default".to_owned() } else { format!("default {}", v.default) };
        out.push_str(&format!("{}  ({})\n", v.name, default.replace('`', "")));
        wrap(&mut out, &v.meaning.replace('`', ""), width);
    }
    out.push('\n');
    wrap(&mut out, &FOOTNOTE.replace('`', ""), width);
    out
}

/// Breaks `text` at blanks into indented lines of at most `width` columns.
fn wrap(out: &mut String, text: &str, width: usize) {
    const INDENT: &str = "    ";
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && INDENT.len() + line.len() + 1 + word.len() > width {
            out.push_str(&format!("{INDENT}{line}\n"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    out.push_str(&format!("{INDENT}{line}\n"));
}

/// The real name that `name` most likely means, if one is near: at most a third of its letters
/// differ.
pub fn nearest(name: &str) -> Option<&'static str> {
    let (distance, nearest) = NGINIT.iter().map(|v| (edit_distance(name, v.name), v.name)).min()?;
    let own = nearest.len() - "NGINIT_".len();
    (distance <= own.div_ceil(3).max(1)).then_some(nearest)
}

/// The end of an upstream's variable that `suffix`, `_STICKYY`, most likely means: one letter differs, of
/// long ones two. Less than that would be a variable of another program.
pub fn nearest_suffix(suffix: &str) -> Option<&'static str> {
    let suffix = suffix.to_ascii_uppercase();
    let known = UPSTREAM.iter().filter_map(|v| v.name.strip_prefix("NAME"));
    let (distance, nearest) = known.map(|known| (edit_distance(&suffix, known), known)).min()?;
    (distance <= if nearest.len() > "_STICKY".len() { 2 } else { 1 }).then_some(nearest)
}

/// Levenshtein's distance: insertions, deletions and replacements that turn `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_the_real_one() {
        assert_eq!(nearest("NGINIT_LISTN"), Some("NGINIT_LISTEN"));
        assert_eq!(nearest("NGINIT_STOPTIMEOUT"), Some("NGINIT_STOP_TIMEOUT"));
        assert_eq!(nearest("NGINIT_ACESS_LOG"), Some("NGINIT_ACCESS_LOG"));
        assert_eq!(nearest("NGINIT_SOMETHING_ELSE"), None);
    }

    #[test]
    fn a_misspelt_end_finds_the_real_one() {
        for (suffix, real) in [
            ("_STICKYY", "_STICKY"),
            ("_ROUTES", "_ROUTE"),
            ("_Sticky", "_STICKY"),
            ("_BLAANCE", "_BALANCE"),
            ("_KEEP_ALIVE", "_KEEPALIVE"),
            ("_MAXBODY", "_MAX_BODY"),
            ("_BACKENDS", "_BACKEND"),
        ] {
            assert_eq!(nearest_suffix(suffix), Some(real));
        }
        // Those of Django, Kubernetes, Docker and others.
        for other in ["_URL", "_ROOT", "_HOST", "_DIR", "_SERVICE_HOST", "_PORT_80_TCP", "_ENV_PATH", "_NAME", "_ADDR"]
        {
            assert_eq!(nearest_suffix(other), None, "{other}");
        }
    }

    #[test]
    fn the_terminal_table_keeps_its_width() {
        for line in terminal(80).lines() {
            assert!(line.chars().count() <= 80 || !line.starts_with("    "), "{line}");
        }
    }
}
