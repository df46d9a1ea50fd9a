//! The proxy between this program and the store.

use model::{Invalid, Key, Kind, MASK, Secret, Settings, Width};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Where the proxy is.
pub const S3_PROXY_URL: Key = Key::new(
    "s3.proxy.url",
    Kind::String,
    "Proxy between this program and the store, http://host:port; with any other scheme it is spoken to over TLS. May hold \
     user:password. Requests for credentials do not pass it: for them, and where this is empty, HTTPS_PROXY, HTTP_PROXY and \
     NO_PROXY of the environment count.",
)
.default("")
.group("S3", 22)
.shown(Width::Long, "S3 Proxy Settings");

/// Who asks the proxy.
pub const S3_PROXY_USER: Key =
    Key::new("s3.proxy.user", Kind::String, "User at the proxy; counts before the one in s3.proxy.url.")
        .group("S3", 23)
        .shown(Width::Long, "S3 Proxy User");

/// And proves it.
pub const S3_PROXY_PASSWORD: Key =
    Key::new("s3.proxy.password", Kind::Password, "Password at the proxy; counts before the one in s3.proxy.url.")
        .default("")
        .group("S3", 24)
        .shown(Width::Long, "S3 Proxy Password");

/// Keys of the proxy.
pub(crate) const KEYS: &[Key] = &[S3_PROXY_URL, S3_PROXY_USER, S3_PROXY_PASSWORD];

/// What is wrong with these keys. Not a check of the one key, whose error would repeat a password in the address.
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    proxy(settings).err().into_iter().collect()
}

/// What `s3.proxy.url` says (`S3ProxyConfig` of the S3 sink).
#[derive(Debug, PartialEq, Eq)]
struct ProxyUrl<'a> {
    scheme: &'static str,
    user: Option<&'a str>,
    password: Option<&'a str>,
    /// Host and port.
    authority: &'a str,
}

impl ProxyUrl<'_> {
    /// `Ok(None)` for the empty text.
    fn parse(url: &str) -> Result<Option<ProxyUrl<'_>>, String> {
        if url.is_empty() {
            return Ok(None);
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(format!("no protocol: {}", without_user(url)));
        };
        if scheme.to_ascii_lowercase().starts_with("socks") {
            return Err(format!("unknown protocol: {scheme}, expected http or https"));
        }
        let scheme = if scheme.eq_ignore_ascii_case("http") { "http" } else { "https" };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user_info, authority) = match authority.rsplit_once('@') {
            Some((user_info, authority)) => (Some(user_info), authority),
            None => (None, authority),
        };
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let port = authority.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
        if host.is_empty() || authority.contains(char::is_whitespace) {
            return Err("it names no host, expected http://host:port".to_owned());
        }
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(format!("{authority} ends with no port number, expected http://host:port"));
        }
        let (user, password) = match user_info.map(|text| text.split_once(':').unwrap_or((text, ""))) {
            Some((user, password)) => (Some(user), Some(password)),
            None => (None, None),
        };
        Ok(Some(ProxyUrl { scheme, user, password, authority }))
    }
}

/// An address without the user and password in it.
fn without_user(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, address)| address)
}

/// What is wrong with the address; a password in it is not repeated.
fn invalid(url: &str, why: &str) -> Invalid {
    let shown = if url.contains('@') { MASK } else { url };
    Invalid::value(&S3_PROXY_URL, shown, why)
}

/// The proxy that the settings name, with user and password as an HTTP client takes them; `None` without one.
pub(crate) fn proxy(settings: &Settings) -> Result<Option<Secret>, Invalid> {
    let text = settings.text(&S3_PROXY_URL).unwrap_or_default();
    let Some(url) = ProxyUrl::parse(text).map_err(|why| invalid(text, &why))? else { return Ok(None) };
    let user = settings.string(&S3_PROXY_USER)?.filter(|user| !user.is_empty());
    let user = user.as_deref().or(url.user).unwrap_or_default();
    let password = settings.secret(&S3_PROXY_PASSWORD)?;
    let password = password.as_ref().map(Secret::reveal).or(url.password).unwrap_or_default();
    let escaped = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let login = if user.is_empty() { String::new() } else { format!("{}:{}@", escaped(user), escaped(password)) };
    Ok(Some(Secret::new(format!("{}://{login}{}", url.scheme, url.authority))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pairs: &[(&str, &str)]) -> String {
        let config = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        match proxy(&Settings::new(config)) {
            Ok(proxy) => proxy.map_or("none".to_owned(), |proxy| proxy.reveal().to_owned()),
            Err(invalid) => invalid.message,
        }
    }

    #[test]
    fn a_proxy_is_an_address_with_a_login() {
        let url = |text| ("s3.proxy.url", text);
        for (pairs, expected) in [
            (vec![], "none"),
            (vec![("s3.proxy.user", "u")], "none"),
            (vec![url("http://p:3128")], "http://p:3128"),
            (vec![url("HTTP://p")], "http://p"),
            (vec![url("https://p:8443/ignored")], "https://p:8443"),
            (vec![url("bla-bla://p:1")], "https://p:1"),
            (vec![url("http://[::1]:3128")], "http://[::1]:3128"),
            (vec![url("http://user:pa:ss@p:1")], "http://user:pa%3Ass@p:1"),
            (vec![url("http://user@p:1")], "http://user:@p:1"),
            (vec![url("http://user:old@p:1"), ("s3.proxy.password", "n@w")], "http://user:n%40w@p:1"),
            (
                vec![url("http://user:old@p:1"), ("s3.proxy.user", "me"), ("s3.proxy.password", "new")],
                "http://me:new@p:1",
            ),
        ] {
            assert_eq!(shown(&pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_bad_address_is_refused_without_its_password() {
        for (url, why) in [
            ("p:3128", "no protocol: p:3128"),
            ("http://", "it names no host"),
            ("http://:80", "it names no host"),
            ("http://p:x", "ends with no port number"),
            ("socks5://p:1", "unknown protocol: socks5"),
        ] {
            let text = shown(&[("s3.proxy.url", url)]);
            assert!(text.starts_with("Invalid value") && text.contains(why), "{text}");
        }
        for url in ["hush:hush@p:3128", "http://u:hush@p:x"] {
            assert!(!shown(&[("s3.proxy.url", url)]).contains("hush"), "{url}");
        }
    }
}
