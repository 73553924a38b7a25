//! Who may talk to the local endpoint at all.

use std::net::{IpAddr, SocketAddr};

use hyper::StatusCode;
use hyper::header::{self, HeaderMap};

use crate::config::{Admit, Config};
use crate::owner;

/// Why a request is not let in.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: String,
}

/// Checks where a request comes from.
pub(crate) fn check(
    config: &Config,
    headers: &HeaderMap,
    remote: SocketAddr,
    own: SocketAddr,
    path: &str,
    more_origins: &[String],
) -> Result<(), Refusal> {
    let refuse = |status, reason: String| Err(Refusal { status, reason });
    if !remote.ip().to_canonical().is_loopback() {
        return refuse(StatusCode::FORBIDDEN, "only programs of this machine may connect".into());
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_own_host(host, &config.allowed_hosts) {
        let reason = format!(
            "`Host: {host}` is not a name of this endpoint; use localhost, or add it to allowed_hosts"
        );
        return refuse(StatusCode::MISDIRECTED_REQUEST, reason);
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("?");
        if !is_allowed_origin(origin, &config.allowed_origins)
            && !more_origins.iter().any(|own| own == origin)
        {
            let reason =
                format!("pages of {origin} may not connect; an operator can add it to allowed_origins");
            return refuse(StatusCode::FORBIDDEN, reason);
        }
        return Ok(());
    }
    let probe = matches!(path, "/health" | "/livez" | "/readyz");
    if config.admit == Admit::SameOsUser && !probe && owner::same_user(remote, own) == Some(false) {
        let reason =
            "the program runs as another user of this machine; set admit = \"any-local\" to let it in";
        return refuse(StatusCode::FORBIDDEN, reason.into());
    }
    Ok(())
}

/// A page elsewhere can make its own name resolve to loopback; it cannot make the browser say ours.
fn is_own_host(host: &str, allowed: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|own| name.eq_ignore_ascii_case(own))
        || allowed
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(name) || allowed.eq_ignore_ascii_case(host))
}

fn is_allowed_origin(origin: &str, allowed: &[String]) -> bool {
    if let Some((scheme, rest)) = origin.split_once("://")
        && matches!(scheme, "http" | "https")
        && is_loopback_name(rest)
    {
        return true;
    }
    allowed.iter().any(|pattern| match pattern.split_once("://*.") {
        None => pattern == origin,
        // The wildcard stands for one whole label, no more.
        Some((scheme, domain)) => origin
            .strip_prefix(scheme)
            .and_then(|rest| rest.strip_prefix("://"))
            .and_then(|rest| rest.strip_suffix(domain))
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|label| {
                !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            }),
    })
}

fn is_loopback_name(authority: &str) -> bool {
    if authority.contains(['@', '/', '?', '#']) {
        return false;
    }
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    name == "localhost"
        || name == "[::1]"
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() && ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["localhost", "LOCALHOST:8385", "127.0.0.1:8385", "[::1]:1", "[::1]"] {
            assert!(is_own_host(good, &[]), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil",
            "0.0.0.0:8385",
            "127.1",
            "::1",
            "localhost:x",
        ] {
            assert!(!is_own_host(bad, &[]), "{bad}");
        }
    }

    #[test]
    fn origins() {
        let allowed = ["https://app.corp.example".to_owned(), "https://*.desk.example".to_owned()];
        for good in [
            "http://localhost:3000",
            "https://127.0.0.1",
            "http://[::1]:80",
            "https://app.corp.example",
            "https://a.desk.example",
        ] {
            assert!(is_allowed_origin(good, &allowed), "{good}");
        }
        for bad in [
            "null",
            "file://",
            "https://evil.example",
            "https://app.corp.example.evil.com",
            "http://app.corp.example",
            "https://app.corp.example:8443",
            "https://a.b.desk.example",
            "https://desk.example",
            "https://.desk.example",
            "http://localhost.evil.com",
            "http://localhost@evil.com",
            "https://evildesk.example",
            "chrome-extension://x",
            "http://127.0.0.1.nip.io",
        ] {
            assert!(!is_allowed_origin(bad, &allowed), "{bad}");
        }
    }
}
