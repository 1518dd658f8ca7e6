//! What an agent writes: to an event handler, and as the list of members.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use super::{Event, Kind, Member};

/// The longest input of an event handler, in bytes: 10,000 members fit even if each one's tags are as
/// long as Serf allows, but for those that are nothing but tags.
pub const LONGEST_INPUT: usize = 1 << 20;

/// What an event handler is told by `SERF_EVENT` and its standard input. Nothing, where the event is
/// none of ours: one of a user, or a query.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn command_body(event: Option<&str>, input: &[u8]) -> Result<Option<Event>, String> {
    let Some(event) = event.filter(|event| !event.is_empty()) else {
        return Err("SERF_EVENT is not set: this is an event handler of a Serf agent's, \
                    serf agent -event-handler 'nginit serf'"
            .to_owned());
    };
    if input.len() > LONGEST_INPUT && event.starts_with("member-") {
        return Err(format!("{event}: more than {LONGEST_INPUT} bytes of members"));
    }
    parse_event(event, &String::from_utf8_lossy(input))
}

/// Members that have changed, by the name of the event and a handler's standard input: a line for each
/// one of `NAME\tADDRESS\tROLE\tTAGS` (`memberEventStdin` in serf's cmd/serf/command/agent/invoke.go).
/// Nothing, where the event is none of members.
///
/// # Errors
/// The line that is not one of a member.
pub fn parse_event(event: &str, input: &str) -> Result<Option<Event>, String> {
    let kind = match event {
        "member-join" => Kind::Join,
        "member-leave" => Kind::Leave,
        "member-failed" => Kind::Failed,
        "member-update" => Kind::Update,
        "member-reap" => Kind::Reap,
        _ => return Ok(None),
    };
    let lines = input.lines().filter(|line| !line.is_empty());
    let refuse = |line: &str, reason| format!("{event}: {line:?}: {reason}");
    let members = lines.map(|line| parse_line(line).map_err(|reason| refuse(line, reason)));
    Ok(Some(Event { kind, members: members.collect::<Result<_, _>>()? }))
}

fn parse_line(line: &str) -> Result<Member, &'static str> {
    let mut fields = line.splitn(4, '\t');
    let (Some(name), Some(address), Some(role)) = (fields.next(), fields.next(), fields.next()) else {
        return Err("it is not NAME, ADDRESS, ROLE and TAGS");
    };
    if name.is_empty() {
        return Err("it names nobody");
    }
    let address = address.parse::<IpAddr>().map_err(|_| "the address is none")?.to_canonical();
    let tags = parse_tags(fields.next().unwrap_or_default());
    Ok(Member { name: unescape(name), address, role: unescape(role), tags })
}

/// `k=v,k=v` in any order. Serf escapes neither `,` nor `=` in them: what has no `=` belongs to the value
/// before, and so does a name that was there before, because no member has a tag twice.
fn parse_tags(text: &str) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::<String, String>::new();
    let mut last = None;
    for piece in text.split(',') {
        match (piece.split_once('='), &last) {
            (Some((name, value)), _) if !tags.contains_key(&unescape(name)) => {
                tags.insert(unescape(name), unescape(value));
                last = Some(unescape(name));
            }
            (_, Some(last)) => {
                let value: &mut String = tags.entry(last.clone()).or_default();
                value.push(',');
                value.push_str(&unescape(piece));
            }
            // Before the first one: a name with a comma, which is nothing for us.
            (_, None) => {}
        }
    }
    tags
}

/// Tabs and line breaks, which serf writes as `\t` and `\n` (`eventClean` in invoke.go). It does not
/// escape a `\`.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// What `serf members -format=json` prints.
#[derive(Deserialize)]
struct Listed {
    members: Vec<ListedMember>,
}

#[derive(Deserialize)]
struct ListedMember {
    name: String,
    addr: String,
    #[serde(default)]
    tags: Option<BTreeMap<String, String>>,
    status: String,
}

/// The members that are there, by what `serf members -format=json` prints. One that is about to leave is:
/// its end is an event of its own, but that it stays after all is none.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn parse_members(json: &[u8]) -> Result<Vec<Member>, String> {
    let listed: Listed =
        serde_json::from_slice(json).map_err(|err| format!("the list of members is not understood: {err}"))?;
    let there = |member: &ListedMember| matches!(member.status.as_str(), "alive" | "leaving");
    let read = |ListedMember { name, addr, tags, .. }: ListedMember| {
        let address = addr.parse::<SocketAddr>().map_err(|_| format!("member {name:?}: no address: {addr:?}"))?;
        let tags = tags.unwrap_or_default();
        let role = tags.get("role").cloned().unwrap_or_default();
        Ok(Member { name, address: address.ip().to_canonical(), role, tags })
    };
    listed.members.into_iter().filter(there).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(name: &str, address: &str, role: &str, tags: &[(&str, &str)]) -> Member {
        let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Member { name: name.to_owned(), address: address.parse().unwrap(), role: role.to_owned(), tags }
    }

    fn one(line: &str) -> Member {
        parse_event("member-join", line).unwrap().unwrap().members.remove(0)
    }

    /// As serf 0.8.2 wrote it.
    #[test]
    fn several_members_join_in_one_event() {
        let input = "one\t127.0.0.1\tlb\trole=lb\n\
                     two\t127.0.0.1\tdynamic\trole=dynamic,port=8080,odd=a=b,c,x y=two words\n\
                     three.x_Y-1\t127.0.0.2\tstatic\trole=static\n\
                     six\t::1\t\t\n";
        let tags = [("role", "dynamic"), ("port", "8080"), ("odd", "a=b,c"), ("x y", "two words")];
        let members = vec![
            member("one", "127.0.0.1", "lb", &[("role", "lb")]),
            member("two", "127.0.0.1", "dynamic", &tags),
            member("three.x_Y-1", "127.0.0.2", "static", &[("role", "static")]),
            member("six", "::1", "", &[]),
        ];
        assert_eq!(parse_event("member-join", input), Ok(Some(Event { kind: Kind::Join, members })));
    }

    #[test]
    fn every_event_of_members_has_its_kind_and_others_are_none_of_ours() {
        for (name, kind) in [
            ("member-join", Kind::Join),
            ("member-leave", Kind::Leave),
            ("member-failed", Kind::Failed),
            ("member-update", Kind::Update),
            ("member-reap", Kind::Reap),
        ] {
            let members = vec![member("three", "127.0.0.2", "static", &[("role", "static")])];
            let event = Event { kind, members };
            assert_eq!(parse_event(name, "three\t127.0.0.2\tstatic\trole=static\n"), Ok(Some(event.clone())));
            let json = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event, "{json}");
        }
        for other in ["user", "query", "member-new"] {
            assert_eq!(parse_event(other, "the payload\n"), Ok(None));
            assert_eq!(command_body(Some(other), b"\xff"), Ok(None));
        }
    }

    #[test]
    fn tags_come_in_any_order_and_hold_what_separates_them() {
        for order in ["odd=a=b,c,port=8080,role=x", "port=8080,role=x,odd=a=b,c", "role=x,odd=a=b,c,port=8080"] {
            let tags = [("role", "x"), ("port", "8080"), ("odd", "a=b,c")];
            assert_eq!(one(&format!("n\t10.0.0.1\tx\t{order}")), member("n", "10.0.0.1", "x", &tags), "{order}");
        }
        assert_eq!(one("n\t10.0.0.1\t\tempty=,x=,,"), member("n", "10.0.0.1", "", &[("empty", ""), ("x", ",,")]));
        assert_eq!(one("n\t10.0.0.1\t\tno,a=1"), member("n", "10.0.0.1", "", &[("a", "1")]));
        // A value that looks like another tag never makes a port that is none.
        assert_eq!(one("n\t10.0.0.1\t\tport=8080,x=a,port=9").tags["port"], "8080");
        assert_eq!(one("n\t10.0.0.1\t\tx=a,port=9,port=8080").tags["port"], "9,port=8080");
    }

    /// The value was `a`, tab, `b`, line break, `c\t`; serf does not escape the backslash.
    #[test]
    fn tabs_and_line_breaks_are_escaped() {
        assert_eq!(one(r"two	127.0.0.1	x	multi=a\tb\nc\t").tags["multi"], "a\tb\nc\t");
        assert_eq!(one("a\\tb\t127.0.0.1\tr\\nr\t").name, "a\tb");
    }

    #[test]
    fn an_address_of_ipv4_in_ipv6_is_one_of_ipv4() {
        assert_eq!(one("n\t::ffff:10.0.0.1\t\t").address, "10.0.0.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn what_no_agent_writes_is_refused_with_its_line() {
        for (bad, reason) in [
            ("n", "it is not NAME"),
            ("n\t10.0.0.1", "it is not NAME"),
            ("\t10.0.0.1\t\t", "it names nobody"),
            ("n\t<nil>\t\t", "the address is none"),
            ("n\t10.0.0.1:80\t\t", "the address is none"),
        ] {
            let error = parse_event("member-join", &format!("ok\t10.0.0.1\t\t\n{bad}\n")).unwrap_err();
            assert!(error.starts_with("member-join: \"") && error.contains(reason), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
        assert!(command_body(None, b"").unwrap_err().contains("SERF_EVENT is not set"));
        assert!(command_body(Some("member-join"), &vec![b'\n'; LONGEST_INPUT + 1]).is_err());
        assert!(command_body(Some("member-join"), &vec![b'\n'; LONGEST_INPUT]).is_ok());
    }

    fn listed(name: &str, addr: &str, tags: &str, status: &str) -> String {
        format!(
            r#"{{"name":"{name}","addr":"{addr}","port":27946,"tags":{tags},"status":"{status}",
               "protocol":{{"max":5,"min":2,"version":5}}}}"#
        )
    }

    #[test]
    fn a_list_gives_those_that_are_there() {
        let members = [
            listed("one", "127.0.0.1:27946", r#"{"role":"lb"}"#, "alive"),
            listed("two", "[::1]:27947", r#"{"multi":"a\tb\nc\\t","role":"dynamic","port":"9090"}"#, "leaving"),
            listed("gone", "127.0.0.1:27948", "{}", "left"),
            listed("dead", "", "null", "failed"),
            listed("odd", "", "null", "none"),
        ];
        let json = format!("{{\"members\":[{}]}}", members.join(","));
        let tags = [("multi", "a\tb\nc\\t"), ("port", "9090"), ("role", "dynamic")];
        let want = vec![member("one", "127.0.0.1", "lb", &[("role", "lb")]), member("two", "::1", "dynamic", &tags)];
        assert_eq!(parse_members(json.as_bytes()), Ok(want));
    }

    #[test]
    fn a_list_that_is_none_is_refused_in_one_line() {
        let bad_address = format!("{{\"members\":[{}]}}", listed("n\\n", "10.0.0.1", "{}", "alive"));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"members":null}"#,
            "Error connecting to Serf agent\n",
            r#"{"members":[{"name":"x"}]}"#,
            &bad_address,
        ] {
            assert_eq!(parse_members(bad.as_bytes()).unwrap_err().lines().count(), 1, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_in_panics(input: Vec<u8>, text in "[a=,\\\\tn\t\n0-9.]{0,60}") {
            let _ = command_body(Some("member-join"), &input);
            let _ = parse_event("member-update", &text);
            let _ = parse_members(&input);
        }

        /// As long as no value looks like tags, the order in which they come is all the same.
        #[test]
        fn what_serf_writes_is_read_back(tags in prop::collection::btree_map("[a-z]{1,4}", "[a-z0-9=. \t\n]{0,5}", 0..5)) {
            let clean = |text: &str| text.replace('\t', "\\t").replace('\n', "\\n");
            let pairs: Vec<String> = tags.iter().rev().map(|(name, value)| format!("{name}={}", clean(value))).collect();
            prop_assert_eq!(one(&format!("n\t10.0.0.1\t\t{}\n", pairs.join(","))).tags, tags);
        }
    }
}
