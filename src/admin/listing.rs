//! The servers of each upstream and where they come from: as JSON, as columns for people, and as
//! CSV for programs that know nothing else.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::{Ago, Table, one_line};

/// The servers and where they come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// By name.
    pub upstreams: Vec<UpstreamView>,
    /// Where servers may come from, those first that come first when they contradict.
    pub sources: Vec<SourceView>,
}

/// An upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamView {
    /// nginx's name of it.
    pub name: String,
    /// How nginx chooses among its servers, such as `round_robin`.
    pub balance: String,
    /// Why nginx reloads for a change of its servers; nothing, if it follows without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<String>,
    /// All that are or were there lately, or shall be.
    pub servers: Vec<ServerView>,
}

/// A server of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// Where it is, as nginx writes it.
    pub address: String,
    /// The host name that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What nginx makes of it.
    pub state: ServerState,
    /// Its share of the requests.
    pub weight: u16,
    /// Who names it: `DYNAMIC_BACKEND_FILE`, `dns`, `add`, `announce`, `serf`.
    pub sources: Vec<String>,
    /// Seconds since its state is that.
    pub since_secs: u64,
    /// Seconds until an announcement is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_secs: Option<u64>,
    /// The orders that apply to it: `drain`, `weight=3`, `removed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<String>,
    /// What else to know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What nginx makes of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// It gets requests.
    Up,
    /// It gets them while no other can.
    Backup,
    /// It gets none.
    Down,
    /// It gets no new requests.
    Drain,
    /// An order keeps it out.
    Removed,
    /// No source names it any more; its slot is kept.
    Gone,
    /// It is a name without an address.
    Unresolved,
}

impl ServerState {
    /// Its word, which is that of the JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Backup => "backup",
            Self::Down => "down",
            Self::Drain => "drain",
            Self::Removed => "removed",
            Self::Gone => "gone",
            Self::Unresolved => "unresolved",
        }
    }
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Where servers come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// Its kind.
    pub kind: SourceKind,
    /// What tells it from others of the kind: a variable, a path, a host name.
    pub name: String,
    /// How many servers it names.
    pub servers: usize,
    /// Seconds since it was last read without a fault; nothing, if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_secs: Option<u64>,
    /// Why it cannot be read now; what it said last still counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Seconds since it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_secs: Option<u64>,
}

/// The kinds of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A variable.
    Environment,
    /// A file.
    File,
    /// A host name.
    Dns,
    /// Orders to add.
    Add,
    /// What servers say of themselves.
    Announce,
    /// A Serf agent.
    Serf,
}

impl SourceKind {
    /// Its word, which is that of the JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::File => "file",
            Self::Dns => "dns",
            Self::Add => "add",
            Self::Announce => "announce",
            Self::Serf => "serf",
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl ServerView {
    /// Everything that is worth a word beside its state.
    fn remarks(&self) -> String {
        let mut words = self.orders.clone();
        words.extend(self.expires_secs.map(|secs| format!("expires in {}", Ago(secs))));
        words.extend(self.note.as_deref().map(one_line));
        words.join(", ")
    }
}

/// A table of the servers, and one of the sources.
impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut servers =
            Table::new(["UPSTREAM", "SERVER", "STATE", "WEIGHT", "SINCE", "FROM", "NAME", "REMARKS"], &[3, 4]);
        for upstream in &self.upstreams {
            for server in &upstream.servers {
                servers.row([
                    upstream.name.clone(),
                    server.address.clone(),
                    server.state.to_string(),
                    server.weight.to_string(),
                    Ago(server.since_secs).to_string(),
                    server.sources.join(","),
                    server.name.clone().unwrap_or_default(),
                    server.remarks(),
                ]);
            }
            if upstream.servers.is_empty() {
                let none = ["-", "", "", "", "", "", "no servers"].map(str::to_owned);
                let [server, state, weight, since, from, name, remarks] = none;
                servers.row([upstream.name.clone(), server, state, weight, since, from, name, remarks]);
            }
        }
        servers.fmt(f)?;
        if !self.upstreams.is_empty() {
            f.write_str("\n")?;
            let mut changes = Table::new(["UPSTREAM", "CHANGES OF ITS SERVERS"], &[]);
            for upstream in &self.upstreams {
                let reload = upstream.reload.as_ref().map(|why| format!("reload nginx: {why}"));
                changes.row([
                    upstream.name.clone(),
                    reload.unwrap_or_else(|| "nginx follows without a reload".to_owned()),
                ]);
            }
            changes.fmt(f)?;
        }
        if self.sources.is_empty() {
            return Ok(());
        }
        f.write_str("\n")?;
        let mut sources = Table::new(["SOURCE", "NAME", "SERVERS", "READ", "ERROR"], &[2, 3]);
        for source in &self.sources {
            let since = source.error_secs.map_or_else(String::new, |secs| format!(" (for {})", Ago(secs)));
            sources.row([
                source.kind.to_string(),
                source.name.clone(),
                source.servers.to_string(),
                source.age_secs.map_or_else(|| "never".to_owned(), |secs| format!("{} ago", Ago(secs))),
                source.error.as_ref().map_or_else(String::new, |error| format!("{}{since}", one_line(error))),
            ]);
        }
        sources.fmt(f)
    }
}

/// The first line of [`Listing::csv`]. Columns are only ever added at its end.
pub const CSV_HEAD: &str = "upstream,balance,address,name,state,weight,sources,orders,since_secs,expires_secs,note";

impl Listing {
    /// A line a server, and a head. Several sources or orders stand in one field, with blanks
    /// between them.
    pub fn csv(&self) -> String {
        let mut out = format!("{CSV_HEAD}\n");
        for upstream in &self.upstreams {
            for server in &upstream.servers {
                let number = |n: Option<u64>| n.map_or_else(String::new, |n| n.to_string());
                let fields = [
                    upstream.name.clone(),
                    upstream.balance.clone(),
                    server.address.clone(),
                    server.name.clone().unwrap_or_default(),
                    server.state.to_string(),
                    server.weight.to_string(),
                    server.sources.join(" "),
                    server.orders.join(" "),
                    server.since_secs.to_string(),
                    number(server.expires_secs),
                    server.note.as_deref().map(one_line).unwrap_or_default(),
                ];
                let fields: Vec<String> = fields.iter().map(|field| csv_field(field)).collect();
                out.push_str(&fields.join(","));
                out.push('\n');
            }
        }
        out
    }
}

/// A field as of RFC 4180, which no spreadsheet takes for a formula.
fn csv_field(text: &str) -> String {
    let text = one_line(text);
    let formula = text.starts_with(['=', '+', '-', '@']);
    let text = if formula { format!("'{text}") } else { text };
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn server(address: &str, state: ServerState, sources: &[&str]) -> ServerView {
        ServerView {
            address: address.to_owned(),
            name: None,
            state,
            weight: 1,
            sources: sources.iter().map(|&source| source.to_owned()).collect(),
            since_secs: 75,
            expires_secs: None,
            orders: Vec::new(),
            note: None,
        }
    }

    pub(crate) fn upstream() -> UpstreamView {
        let name = Some("api".to_owned());
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        UpstreamView {
            name: "dynamic_backend".to_owned(),
            balance: "round_robin".to_owned(),
            reload: None,
            servers: vec![
                ServerView {
                    name,
                    weight: 10,
                    ..server("10.0.0.1:8080", ServerState::Up, &["DYNAMIC_BACKEND", "dns"])
                },
                ServerView {
                    orders: words(&["drain", "weight=3"]),
                    ..server("10.0.0.2:80", ServerState::Drain, &["add"])
                },
                ServerView { expires_secs: Some(12), ..server("[fd00::1]:80", ServerState::Backup, &["announce"]) },
                ServerView { note: Some("=a,\"b\"\n".to_owned()), ..server("10.0.0.3:80", ServerState::Gone, &[]) },
            ],
        }
    }

    pub(crate) fn sources() -> Vec<SourceView> {
        let source = |kind, name: &str, servers| SourceView {
            kind,
            name: name.to_owned(),
            servers,
            age_secs: Some(75),
            error: None,
            error_secs: None,
        };
        let error = Some("no such\nfile".to_owned());
        vec![
            source(SourceKind::Environment, "DYNAMIC_BACKEND", 2),
            SourceView { error, error_secs: Some(9), ..source(SourceKind::File, "/lists/x", 10) },
        ]
    }

    #[test]
    fn a_listing_is_columns_for_people() {
        let want = "\
UPSTREAM         SERVER         STATE   WEIGHT  SINCE  FROM                 NAME  REMARKS
dynamic_backend  10.0.0.1:8080  up          10  1m15s  DYNAMIC_BACKEND,dns  api
dynamic_backend  10.0.0.2:80    drain        1  1m15s  add                        drain, weight=3
dynamic_backend  [fd00::1]:80   backup       1  1m15s  announce                   expires in 12s
dynamic_backend  10.0.0.3:80    gone         1  1m15s                             =a,\"b\" |
static_backend   -                                                                no servers

UPSTREAM         CHANGES OF ITS SERVERS
dynamic_backend  nginx follows without a reload
static_backend   reload nginx: it is old

SOURCE       NAME             SERVERS       READ  ERROR
environment  DYNAMIC_BACKEND        2  1m15s ago
file         /lists/x              10  1m15s ago  no such | file (for 9s)
";
        let reload = Some("it is old".to_owned());
        let empty = UpstreamView { name: "static_backend".to_owned(), reload, servers: Vec::new(), ..upstream() };
        let listing = Listing { upstreams: vec![upstream(), empty], sources: sources() };
        assert_eq!(listing.to_string(), want);
    }

    #[test]
    fn a_listing_is_csv_for_spreadsheets() {
        let want = "\
upstream,balance,address,name,state,weight,sources,orders,since_secs,expires_secs,note
dynamic_backend,round_robin,10.0.0.1:8080,api,up,10,DYNAMIC_BACKEND dns,,75,,
dynamic_backend,round_robin,10.0.0.2:80,,drain,1,add,drain weight=3,75,,
dynamic_backend,round_robin,[fd00::1]:80,,backup,1,announce,,75,12,
dynamic_backend,round_robin,10.0.0.3:80,,gone,1,,,75,,\"'=a,\"\"b\"\" | \"
";
        assert_eq!(Listing { upstreams: vec![upstream()], sources: Vec::new() }.csv(), want);
    }

    #[test]
    fn words_are_those_of_the_json() {
        use ServerState::{Backup, Down, Drain, Gone, Removed, Unresolved, Up};
        for state in [Up, Backup, Down, Drain, Removed, Gone, Unresolved] {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
        use SourceKind::{Add, Announce, Dns, Environment, File, Serf};
        for kind in [Environment, File, Dns, Add, Announce, Serf] {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }
}
