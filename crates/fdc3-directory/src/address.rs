//! Where a web application is, and whether a page is that application.

use mesh_model::Text;
use url::Url;

/// The `http://` or `https://` address of a web application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppUrl {
    text: Text,
    url: Url,
}

/// How much of a page's address a record names. The greater, the better the record fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Specificity {
    parts: usize,
    has_path: bool,
}

impl AppUrl {
    /// Reads an address. Only pages: a `javascript:` address would run in whoever opens it.
    pub(crate) fn parse(text: &Text) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        matches!(url.scheme(), "http" | "https").then(|| Self { text: text.clone(), url })
    }

    /// Returns the address as the directory has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the origin as browsers write it, such as `https://apps.example`.
    #[must_use]
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Returns how well a page fits this address; `None` unless the origins agree and every part of
    /// this address (path, pairs of the query, fragment) occurs in the page's.
    pub(crate) fn fit(&self, page: &Url) -> Option<Specificity> {
        if self.url.origin() != page.origin() {
            return None;
        }
        let path = path(&self.url);
        if !path.is_empty() && path != self::path(page) {
            return None;
        }
        let fragment = self.url.fragment().filter(|fragment| !fragment.is_empty());
        if fragment.is_some() && fragment != page.fragment() {
            return None;
        }
        let mut pairs = 0;
        for wanted in self.url.query_pairs() {
            page.query_pairs().find(|pair| *pair == wanted)?;
            pairs += 1;
        }
        let has_path = !path.is_empty();
        Some(Specificity { parts: usize::from(has_path) + pairs + usize::from(fragment.is_some()), has_path })
    }
}

/// Returns the path without a slash at its end: servers and people add and lose it.
fn path(url: &Url) -> &str {
    let path = url.path();
    path.strip_suffix('/').unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_must_have_every_part_of_the_address() {
        let fits = |address: &str, page: &str| {
            AppUrl::parse(&Text::from(address)).unwrap().fit(&Url::parse(page).unwrap()).is_some()
        };
        for (address, page, expected) in [
            ("https://a.example", "https://a.example/any?x=1#h", true),
            ("https://a.example/", "https://a.example/", true),
            ("https://a.example:443/app", "https://A.example/app/", true),
            ("https://a.example/app/", "https://a.example/app", true),
            ("https://a.example/app", "https://a.example/app/sub", false),
            ("https://a.example/app", "https://a.example/application", false),
            ("https://a.example/app", "https://a.example/", false),
            ("https://a.example/app", "http://a.example/app", false),
            ("https://a.example/app", "https://a.example:8443/app", false),
            ("https://a.example/app", "https://b.example/app", false),
            ("https://a.example/app", "https://a.example.evil.example/app", false),
            ("https://a.example/app?x=1", "https://a.example/app?y=2&x=1", true),
            ("https://a.example/app?x=1", "https://a.example/app?x=2", false),
            ("https://a.example/app?x=1", "https://a.example/app?x=2&x=1", true),
            ("https://a.example/app?x=1", "https://a.example/app?x=11", false),
            ("https://a.example/app?x=a%20b", "https://a.example/app?x=a+b", true),
            ("https://a.example/app?x", "https://a.example/app?x=", true),
            ("https://a.example/app#h", "https://a.example/app#h", true),
            ("https://a.example/app#h", "https://a.example/app", false),
            ("https://a.example/app#", "https://a.example/app#h", true),
        ] {
            assert_eq!(fits(address, page), expected, "{address} {page}");
        }
        // Such pages have no origin to agree with.
        for page in ["about:blank", "file:///app", "data:text/html,x"] {
            assert!(!fits("https://a.example", page), "{page}");
        }
    }

    #[test]
    fn only_pages_have_an_address() {
        for other in
            ["", "a.example/app", "/app", "javascript:alert(1)", "file:///app", "data:text/html,x", "http://"]
        {
            assert_eq!(AppUrl::parse(&Text::from(other)), None, "{other}");
        }
        let url = AppUrl::parse(&Text::from("HTTPS://A.example:443/app?x=1")).unwrap();
        assert_eq!((url.as_str(), &*url.origin()), ("HTTPS://A.example:443/app?x=1", "https://a.example"));
    }
}
