//! The pages and scripts that browsers need, all in the program.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::local::websocket::{Answer, text};

/// What is served: path, type, content, and who may embed it.
const FILES: [(&str, &str, &str, Embedded); 12] = [
    ("desktop", HTML, include_str!("../../assets/fdc3/desktop.html"), Embedded::Never),
    ("adaptor", HTML, include_str!("../../assets/fdc3/adaptor.html"), Embedded::ByApps),
    ("channels", HTML, include_str!("../../assets/fdc3/channels.html"), Embedded::ByApps),
    ("resolver", HTML, include_str!("../../assets/fdc3/resolver.html"), Embedded::ByApps),
    ("agent.js", SCRIPT, include_str!("../../assets/fdc3/agent.js"), Embedded::Never),
    ("assets/desktop.js", SCRIPT, include_str!("../../assets/fdc3/desktop.js"), Embedded::Never),
    ("assets/adaptor.js", SCRIPT, include_str!("../../assets/fdc3/adaptor.js"), Embedded::Never),
    ("assets/channels.js", SCRIPT, include_str!("../../assets/fdc3/channels.js"), Embedded::Never),
    ("assets/resolver.js", SCRIPT, include_str!("../../assets/fdc3/resolver.js"), Embedded::Never),
    ("assets/common.js", SCRIPT, include_str!("../../assets/fdc3/common.js"), Embedded::Never),
    ("assets/style.css", "text/css", include_str!("../../assets/fdc3/style.css"), Embedded::Never),
    ("assets/icon.svg", "image/svg+xml", include_str!("../../assets/fdc3/icon.svg"), Embedded::Never),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Embedded {
    Never,
    ByApps,
}

/// Answers a request for a page. `host` is that of the request, `origins` are those of apps.
pub(crate) fn answer(path: &str, host: &str, origins: &[String]) -> Answer {
    let name = path.strip_prefix("/fdc3/").unwrap_or_default();
    let Some((_, kind, content, embedded)) = FILES.iter().find(|(file, ..)| *file == name) else {
        let reason = "there is no such page; the launcher is /fdc3/desktop";
        return text(StatusCode::NOT_FOUND, reason);
    };
    let ancestors = match embedded {
        Embedded::Never => "'none'".to_owned(),
        Embedded::ByApps => {
            let local =
                ["http://localhost:*", "http://127.0.0.1:*", "https://localhost:*"].map(str::to_owned);
            let all: Vec<String> = local.into_iter().chain(origins.iter().cloned()).collect();
            format!("'self' {}", all.join(" "))
        }
    };
    let policy = format!(
        "default-src 'self'; connect-src 'self' ws://{host}; img-src 'self' data: http: https:; base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}"
    );
    let mut answer = Response::new(Full::new(Bytes::from_static(content.as_bytes())));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Pages that isolate themselves may still embed what they need to connect.
    let policy_name = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(policy_name, HeaderValue::from_static("cross-origin"));
    match HeaderValue::from_str(&policy) {
        Ok(policy) => {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        Err(_) => return text(StatusCode::BAD_REQUEST, "the `Host` header cannot be understood"),
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_apps_may_embed_and_only_what_they_need() {
        let origins = ["https://apps.corp.example".to_owned()];
        let policy = |path: &str| {
            let answer = answer(path, "localhost:8385", &origins);
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
            answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned()
        };
        assert!(policy("/fdc3/desktop").ends_with("frame-ancestors 'none'"));
        for page in ["adaptor", "channels", "resolver"] {
            assert!(policy(&format!("/fdc3/{page}")).ends_with(" https://apps.corp.example"), "{page}");
        }
        assert_eq!(answer("/fdc3/assets/../desktop", "h", &[]).status(), StatusCode::NOT_FOUND);
        assert_eq!(answer("/fdc3/", "h", &[]).status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn all_that_pages_ask_for_is_there() {
        for (name, _, content, _) in FILES {
            for part in content.split(['"', '\'']).filter(|part| part.starts_with("/fdc3/assets/")) {
                assert_eq!(answer(part, "h", &[]).status(), StatusCode::OK, "{name} asks for {part}");
            }
        }
    }
}
