//! What templates are told of listeners, of proxies in front of nginx, and of protocols.

use minijinja::{Value, context};

use super::quote::Written;
use crate::nginx::facts::Version;
use crate::settings::Settings;
use crate::settings::real_ip::RealIpHeader;
use crate::upstream::{HostName, Listen, Protocol};

/// What of `settings` is about listening: `listen`, `http2`, `tls`, `redirect`, `real_ip`.
pub fn context(settings: &Settings, nginx: Version, ipv6: bool) -> Value {
    let grpc = settings.upstreams.values().any(|upstream| upstream.protocol.grpc);
    let (serving, redirecting): (Vec<&Listen>, Vec<&Listen>) =
        listen(settings, ipv6).partition(|listen| settings.serves_on(listen));
    let http2 = |listen: &[&Listen], asked: bool| {
        nginx.has_http2_directive() && (asked || listen.iter().any(|listen| listen.tls || listen.http2))
    };
    let written = |listen: &[&Listen]| listen.iter().map(|listen| statement(listen, nginx)).collect::<Vec<_>>();
    let redirect = settings.redirect().filter(|_| !redirecting.is_empty()).map(|port| {
        // The port that https means is not written.
        let port = if port.get() == 443 { String::new() } else { format!(":{port}") };
        context! { listen => written(&redirecting), http2 => http2(&redirecting, false), port }
    });
    let tls = settings.tls.as_ref().map(|tls| context! { cert => tls.cert.as_str(), key => tls.key.as_str() });
    let real_ip = settings.real_ip.as_ref().map(|real_ip| {
        context! {
            trusted => real_ip.trusted.iter().map(ToString::to_string).collect::<Vec<_>>(),
            header => real_ip.header.as_str(),
            // Whoever speaks the PROXY protocol passes requests on as they come.
            forwards => real_ip.header != RealIpHeader::ProxyProtocol,
        }
    });
    context! { listen => written(&serving), http2 => http2(&serving, grpc), tls, redirect, real_ip }
}

/// Where nginx listens: the default shrinks to what the kernel has, what was asked for does not.
fn listen(settings: &Settings, ipv6: bool) -> impl Iterator<Item = &Listen> {
    let all = ipv6 || !settings.listen_is_default;
    settings.listen.iter().filter(move |l| all || l.address.is_none_or(|a| a.is_ipv4()))
}

/// The arguments of `listen`.
fn statement(listen: &Listen, nginx: Version) -> Value {
    let mut text = listen.to_string();
    let mut put = |is: bool, param: &str| {
        if is {
            text.push_str(param);
        }
    };
    put(listen.tls, " ssl");
    put((listen.tls || listen.http2) && !nginx.has_http2_directive(), " http2");
    put(listen.proxy_protocol, " proxy_protocol");
    Written::directive(text)
}

/// What is spoken to servers: whether `grpc`, with which modules of nginx `tls` is, and which file
/// `ca_bundle` verifies those of whom nothing else is said.
pub fn protocols(settings: &Settings, ca_bundle: Option<&str>) -> Value {
    let all = || settings.upstreams.values().map(|upstream| &upstream.protocol);
    let tls = ["proxy", "grpc"].map(|module| (module, all().any(|p| p.tls.is_some() && p.module() == module)));
    let tls: Vec<&str> = tls.into_iter().filter_map(|(module, is)| is.then_some(module)).collect();
    let ca_bundle = ca_bundle.filter(|_| all().any(Protocol::needs_bundle));
    context! { grpc => all().any(|protocol| protocol.grpc), tls, ca_bundle }
}

/// How servers are verified, or none without TLS.
pub fn peer_tls(protocol: &Protocol) -> Option<Value> {
    protocol.tls.as_ref().map(|tls| {
        let name = tls.name.as_ref().map_or("", HostName::as_str);
        context! { name, verify => tls.verify, ca => tls.ca.as_deref().unwrap_or_default() }
    })
}
