use super::*;

const EXAMPLE: &str = include_str!("../../../../deploy/deskmesh.example.toml");
const GUIDE: &str = include_str!("../../../../docs/guides/configuration.md");

/// Files in a directory of their own, an environment, and flags.
struct Case {
    dir: tempfile::TempDir,
    sources: Sources,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::from([("HOME".to_owned(), "/home/ann".to_owned())]);
        let optional_files = vec![dir.path().join("system.toml"), dir.path().join("user.toml")];
        Self { sources: Sources { optional_files, env, flags: Flags::default() }, dir }
    }

    fn file(self, name: &str, text: &str) -> Self {
        fs::write(self.dir.path().join(name), text).unwrap();
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn flag(mut self, path: &'static str, value: &str) -> Self {
        self.sources.flags.values.push((path, value.to_owned()));
        self
    }

    fn config_flag(mut self, name: &str) -> Self {
        self.sources.flags.config = Some(self.dir.path().join(name));
        self
    }

    fn config(&self) -> Config {
        self.sources.load().unwrap().config
    }

    /// Returns the error and its hint, with the directory left out.
    fn complaint(&self) -> (String, String) {
        let error = self.sources.load().unwrap_err();
        let dir = format!("{}/", self.dir.path().display());
        (output::chain(&error).replace(&dir, ""), error.hint())
    }
}

fn defaults() -> Config {
    Case::new().config()
}

#[test]
fn without_any_source_there_are_defaults() {
    let config = defaults();
    let addresses: Vec<_> = config.listen.iter().map(SocketAddr::to_string).collect();
    assert_eq!(addresses, ["127.0.0.1:8385", "[::1]:8385"]);
    assert_eq!(config.mesh_listen.to_string(), "0.0.0.0:8386");
    assert!(!config.name.is_empty() && !config.user.is_empty());
    assert_eq!((config.admit, config.telemetry.sample_ratio), (Admit::SameOsUser, 1.0));
    assert_eq!(config.limits.model(), mesh_model::Limits::default());
    if cfg!(target_os = "linux") {
        assert_eq!(config.data_dir, Path::new("/home/ann/.local/state/deskmesh"));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn directories_follow_the_platform() {
    let case = Case::new().env("XDG_STATE_HOME", "/state").env("XDG_CONFIG_HOME", "/conf");
    assert_eq!(case.config().data_dir, Path::new("/state/deskmesh"));
    let expected = ["/etc/deskmesh/config.toml", "/conf/deskmesh/config.toml"].map(PathBuf::from);
    assert_eq!(place::config_files(&case.sources.env), expected);

    let case = Case::new().env("XDG_STATE_HOME", "relative");
    assert_eq!(case.config().data_dir, Path::new("/home/ann/.local/state/deskmesh"));

    let case = Case::new().env("HOME", "");
    assert_eq!(case.complaint().0, "`data_dir` is not set, and there is no home directory for its default");
    assert_eq!(case.flag("data_dir", "d").config().data_dir, Path::new("d"));
}

#[test]
fn later_sources_win() {
    let case = Case::new().file("system.toml", "name = 'system'\nuser = 'ann'\n[limits]\nsessions_max = 1");
    assert_eq!(case.config().name, "system");
    let case = case.file("user.toml", "name = 'user'\n[limits]\nhello_timeout_ms = 2");
    assert_eq!(case.config().name, "user");
    let case = case.file("named.toml", "name = 'named'").config_flag("named.toml");
    assert_eq!(case.config().name, "named");
    let case = case.env("DESKMESH_NAME", "42").env("DESKMESH_LIMITS_SESSIONS_MAX", "3");
    assert_eq!(case.config().name, "42");
    let case = case.flag("name", "flag").flag("telemetry.log", "debug");

    let config = case.config();
    assert_eq!((config.name.as_str(), config.user.as_str()), ("flag", "ann"));
    assert_eq!((config.limits.sessions_max, config.limits.hello_timeout_ms), (3, 2));
    assert_eq!(config.limits.message_bytes_max, 16 << 20);
    assert_eq!(config.telemetry.log, "debug");
    let loaded = case.sources.load().unwrap();
    assert_eq!(loaded.files.len(), 3);
    let shown = loaded.show();
    for (line, origin) in [
        ("name = \"flag\"", "--name"),
        ("user = \"ann\"", "system.toml"),
        ("sessions_max = 3", "DESKMESH_LIMITS_SESSIONS_MAX"),
        ("hello_timeout_ms = 2", "user.toml"),
        ("message_bytes_max = 16777216", "default"),
        ("# join is not set", "default"),
        ("log = \"debug\"", "--log"),
    ] {
        let found = shown.lines().find(|shown| shown.starts_with(line)).unwrap_or_else(|| panic!("{shown}"));
        assert!(found.ends_with(origin), "{found}");
    }
}

#[test]
fn the_named_file_may_come_from_the_environment() {
    let case = Case::new().file("named.toml", "name = 'named'");
    let file = case.dir.path().join("named.toml").display().to_string();
    assert_eq!(case.env("DESKMESH_CONFIG", &file).config().name, "named");
}

#[test]
fn lists_may_be_texts() {
    let case = Case::new()
        .file("user.toml", "listen = '127.0.0.1:0'\nseeds = ['a:1', '[::1]:2']")
        .env("DESKMESH_ALLOWED_ORIGINS", "https://a.example, https://*.corp.example")
        .env("DESKMESH_MESH_ADVERTISE", "");
    let config = case.config();
    assert_eq!(config.listen, ["127.0.0.1:0".parse().unwrap()]);
    assert_eq!(config.seeds, ["a:1", "[::1]:2"]);
    assert_eq!(config.allowed_origins, ["https://a.example", "https://*.corp.example"]);
    assert!(config.mesh_advertise.is_empty());
    assert_eq!(
        Case::new().file("user.toml", "data_dir = '~/mesh'").config().data_dir,
        Path::new("/home/ann/mesh")
    );
    let case = Case::new().env("DESKMESH_FDC3_DIRECTORIES", "~/apps.json, https://appd.example/v2/apps");
    assert_eq!(case.config().fdc3.directories, ["/home/ann/apps.json", "https://appd.example/v2/apps"]);
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    let check = |text: &str, problem: &str, hint: &str| {
        let complaint = Case::new().file("user.toml", text).complaint();
        assert_eq!((complaint.0.as_str(), complaint.1.as_str()), (problem, hint), "{text}");
    };
    check(
        "lisen = '127.0.0.1:0'",
        "user.toml: there is no key `lisen`; did you mean `listen`?",
        "Correct the name, or remove the line.",
    );
    check(
        "sessions_max = 5",
        "user.toml: there is no key `sessions_max`; did you mean `limits.sessions_max`?",
        "Write `sessions_max` below [limits], or remove the line.",
    );
    check(
        "[telemetry]\ncolour = true",
        "user.toml: there is no key `telemetry.colour`; the keys of [telemetry] are otlp_endpoint, \
         sample_ratio, log, log_format",
        "Correct the name, or remove the line.",
    );
    check(
        "limits = 5",
        "user.toml: `limits` must be a section, [limits], with `key = value` lines below it",
        "Correct it, or remove `limits`.",
    );
    check(
        "[limits]\nsessions_max = 'many'",
        "user.toml: `limits.sessions_max` is \"many\", but must be a whole number above 0",
        "Correct it, or remove `limits.sessions_max` to get its default.",
    );
    check(
        "admit = 'everybody'",
        "user.toml: `admit` is \"everybody\", but must be \"same-os-user\" or \"any-local\"",
        "Correct it, or remove `admit` to get its default.",
    );
    check(
        "a = 1\nname = desk",
        "user.toml, line 2: invalid string; expected `\"`, `'`",
        "The file must be TOML: `key = value` lines, texts in quotes.",
    );
}

#[test]
fn every_kind_of_value_is_checked() {
    for (text, allowed) in [
        ("name = ''", false),
        ("name = \"a\\nb\"", false),
        ("name = 5", false),
        ("data_dir = ''", false),
        ("listen = []", false),
        ("listen = '0.0.0.0:8385'", false),
        ("listen = 'localhost:8385'", false),
        ("listen = ['127.0.0.1:1', 2]", false),
        ("mesh_listen = '8386'", false),
        ("mesh_listen = '[::]:8386'", true),
        ("seeds = 'desk-2:8386'", true),
        ("seeds = 'desk-2'", false),
        ("seeds = 'desk-2:0'", false),
        ("join = ''", false),
        ("relay = false", true),
        ("relay = 'no'", false),
        ("allowed_origins = ['null']", false),
        ("allowed_hosts = ['desk.corp.example', 'desk.corp.example:8385']", true),
        ("allowed_hosts = 'http://desk'", false),
        ("authenticators = { win = ['/bin/negotiate', '--ntlm'], corp = '/bin/login' }", true),
        ("authenticators = { win = [] }", false),
        ("authenticators = { win = [''] }", false),
        ("authenticators = '/bin/login'", false),
        ("fdc3.directories = '~/apps.json'", true),
        (
            "fdc3.directories = ['/etc/apps.json', 'http://127.0.0.1:1/v2/apps', 'https://appd.example/v2/apps?x=1']",
            true,
        ),
        ("fdc3.directories = 'apps.json'", false),
        ("fdc3.directories = 'appd.example/v2/apps'", false),
        ("fdc3.directories = 'file:///etc/apps.json'", false),
        ("fdc3.directories = 'https://me:hush@appd.example/v2/apps'", false),
        ("fdc3.directories = ['']", false),
        ("fdc3.directory_token = 'a b'", false),
        ("fdc3.directory_token = ''", false),
        ("fdc3.directory_refresh_s = 0", false),
        ("fdc3.user = ''", false),
        ("link_profile = 'wan'", true),
        ("link_profile = 'moon'", false),
        ("fdc3.intent_result_timeout_s = 5", true),
        ("fdc3.intent_result_timeout_s = 0", false),
        ("fdc3.intent_result_timeout_s = 604801", false),
        ("fdc3.bridge = true", true),
        ("fdc3.bridge = 'true'", false),
        (
            "fdc3.bridge_rules = [{ channel = '/^x/', allow = false }, { direction = 'in', intent = 'I', app = 'a', allow = true }]",
            true,
        ),
        ("fdc3.bridge_rules = [{ channel = 'x' }]", false),
        ("fdc3.bridge_secret_file = '~/bridge.secret'", true),
        ("fdc3.bridge_secret_file = ''", false),
        ("fdc3.bridge_rules = [{ channel = '/(/', allow = false }]", false),
        ("fdc3.bridge_rules = [{ direction = 'up', allow = false }]", false),
        ("fdc3.bridge_port = 65435", true),
        ("fdc3.bridge_port = 65436", false),
        ("telemetry.otlp_endpoint = 'localhost:4318'", false),
        ("telemetry.otlp_endpoint = 'http://localhost:4318'", true),
        ("telemetry.sample_ratio = 0", true),
        ("telemetry.sample_ratio = 1", true),
        ("telemetry.sample_ratio = 0.25", true),
        ("telemetry.sample_ratio = 1.5", false),
        ("telemetry.sample_ratio = -1", false),
        ("telemetry.sample_ratio = nan", false),
        ("telemetry.log = 'loud'", false),
        ("telemetry.log = 'info,mesh_net=trace'", true),
        ("telemetry.log_format = 'xml'", false),
        ("limits.json_depth_max = 128", true),
        ("limits.json_depth_max = 129", false),
        ("limits.slow_stream_consumer = 'drop-oldest'", true),
        ("limits.slow_stream_consumer = 'wait'", false),
        (
            "streams.slow_subscribers = [{ stream = '/^Prices/', policy = 'latest-by-key', key = 'symbol' }]",
            true,
        ),
        ("streams.slow_subscribers = [{ stream = 'Prices', policy = 'latest-by-key' }]", false),
        ("streams.slow_subscribers = [{ stream = 'Prices', policy = 'latest', key = 'symbol' }]", false),
        ("streams.slow_subscribers = [{ stream = '/(/', policy = 'latest' }]", false),
        ("streams.slow_subscribers = [{ stream = 'Prices', policy = 'wait' }]", false),
        ("streams.slow_subscribers = [{ policy = 'end' }]", false),
        ("limits.sessions_max = 0", false),
        ("limits.sessions_max = -1", false),
        ("limits.sessions_max = 1.0", false),
        ("limits.sessions_max = 9223372036854775807", true),
    ] {
        let result = Case::new().file("user.toml", text).sources.load();
        assert_eq!(result.is_ok(), allowed, "{text}: {result:?}");
    }
}

#[test]
fn a_mistake_is_found_even_where_it_would_not_count() {
    let case = Case::new().file("system.toml", "name = 5").flag("name", "flag");
    assert!(case.complaint().0.starts_with("system.toml: `name` is 5"), "{:?}", case.complaint());
    let case = Case::new().env("DESKMESH_TELEMETRY_SAMPLE_RATIO", "all");
    let expected = "DESKMESH_TELEMETRY_SAMPLE_RATIO: `telemetry.sample_ratio` is \"all\", but must be a number from 0 to 1";
    assert_eq!(case.complaint().0, expected);
    let case = Case::new().flag("name", "");
    assert!(case.complaint().0.starts_with("--name: `name` is \"\""), "{:?}", case.complaint());
}

#[test]
fn a_named_file_must_be_there() {
    let (problem, hint) = Case::new().config_flag("none.toml").complaint();
    assert!(problem.starts_with("cannot read the configuration file none.toml: "), "{problem}");
    assert_eq!(hint, "Check that the file exists and that you may read it.");
}

#[test]
fn the_token_is_never_shown() {
    let case = Case::new().file("user.toml", "join = 'hush-hush'");
    let loaded = case.sources.load().unwrap();
    assert_eq!(loaded.config.join.as_deref(), Some("hush-hush"));
    assert!(loaded.show().contains("# join is set, and not shown") && !loaded.show().contains("hush"));
    let (problem, _) = Case::new().file("user.toml", "join = ['hush']").complaint();
    assert_eq!(problem, "user.toml: `join` must be the text that `deskmesh token create` printed");

    let loaded = Case::new().env("DESKMESH_FDC3_DIRECTORY_TOKEN", "hush-hush").sources.load().unwrap();
    assert_eq!(loaded.config.fdc3.directory_token.as_deref(), Some("hush-hush"));
    let shown = loaded.show();
    assert!(shown.contains("# directory_token is set, and not shown") && !shown.contains("hush"), "{shown}");
    let (problem, _) = Case::new().file("user.toml", "fdc3.directory_token = 'hush hush'").complaint();
    let expected =
        "user.toml: `fdc3.directory_token` must be a text of visible ASCII characters, without spaces";
    assert_eq!(problem, expected);
}

#[test]
#[cfg(unix)]
fn what_looks_wrong_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;

    let warnings = |case: &Case| case.sources.load().unwrap().warnings;
    let case = Case::new().file("user.toml", "join = 'hush-hush'").env("DESKMESH_CONFIG", "");
    let file = case.dir.path().join("user.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(warnings(&case).is_empty());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(warnings(&case)[0].contains("chmod 600"), "{:?}", warnings(&case));
    let case = case.file("user.toml", "[fdc3]\ndirectory_token = 'hush-hush'");
    assert!(warnings(&case)[0].contains("the token of an app directory"), "{:?}", warnings(&case));
    let case = case.file("user.toml", "[fdc3]\ndirectory_refresh_s = 5");
    assert!(warnings(&case).is_empty());

    let case = Case::new()
        .env("DESKMESH_LISEN", "x")
        .env("DESKMESH_SERVICE_HOST", "10.0.0.1")
        .env("DESKMESH_PORT", "1");
    let expected = [
        "the environment variable DESKMESH_LISEN is no setting; did you mean DESKMESH_LISTEN?",
        "the environment variable DESKMESH_PORT is no setting, and ignored",
        "the environment variable DESKMESH_SERVICE_HOST is no setting, and ignored",
    ];
    assert_eq!(warnings(&case), expected);
}

#[test]
fn what_is_shown_can_be_read_back() {
    let case = Case::new()
        .file("user.toml", "name = 'a \"desk\"'\nseeds = ['a:1', 'b:2']\n[telemetry]\nsample_ratio = 0.5");
    let shown = case.sources.load().unwrap().show();
    assert_eq!(Case::new().file("user.toml", &shown).config(), case.config());
}

/// The example with its settings in force: `#key = value` is a setting, `# words` are words.
fn example_uncommented() -> String {
    let setting = |line: &str| {
        let Some(rest) = line.strip_prefix('#') else { return line.to_owned() };
        if rest.starts_with(|c: char| c.is_ascii_lowercase()) { rest.to_owned() } else { String::new() }
    };
    EXAMPLE.lines().map(|line| setting(line) + "\n").collect()
}

#[test]
fn the_example_shows_every_key_and_its_default() {
    // As it is, it changes nothing.
    assert_eq!(Case::new().file("user.toml", EXAMPLE).config(), defaults());

    let text = example_uncommented();
    for key in key::KEYS {
        let setting = format!("\n{} = ", key.name());
        assert!(text.contains(&setting), "{} is missing", key.path);
    }
    let mut config = Case::new().file("user.toml", &text).config();
    // These have no default that would be the same on two machines, or none at all.
    let defaults = defaults();
    config.name = defaults.name.clone();
    config.user = defaults.user.clone();
    config.data_dir = defaults.data_dir.clone();
    config.join = None;
    config.mesh_advertise = Vec::new();
    config.seeds = Vec::new();
    config.allowed_origins = Vec::new();
    config.allowed_hosts = Vec::new();
    config.authenticators = defaults.authenticators.clone();
    config.fdc3.directories = Vec::new();
    config.fdc3.directory_token = None;
    config.fdc3.user = None;
    config.fdc3.bridge_secret_file = None;
    config.telemetry.otlp_endpoint = None;
    assert_eq!(config, defaults);
}

#[test]
fn the_guide_explains_every_key() {
    for key in key::KEYS {
        let row = format!("| `{}` | `{}` |", key.path, key.variable());
        assert!(GUIDE.contains(&row), "docs/guides/configuration.md has no row that begins {row}");
    }
    let rows = GUIDE.lines().filter(|line| line.starts_with("| `") && line.contains("`DESKMESH_")).count();
    assert_eq!(rows, key::KEYS.len(), "docs/guides/configuration.md has rows of keys that are not there");
}
