use proptest::prelude::*;

use super::*;

fn globs(list: &[&str]) -> Vec<String> {
    list.iter().map(|glob| (*glob).to_owned()).collect()
}

fn rules(profile: Profile, include: &[&str], exclude: &[&str]) -> Rules {
    Rules::new(profile, &globs(include), &globs(exclude)).unwrap()
}

/// What would be taken of these paths by a walk; those with a slash at the end are directories.
fn walk<'a>(rules: &Rules, paths: &[&'a str]) -> Vec<&'a str> {
    let verdict = |path: &str| rules.takes(path.trim_end_matches('/').as_bytes(), path.ends_with('/'));
    let is_reached = |path: &str| {
        let slashes = path.trim_end_matches('/').match_indices('/');
        slashes.map(|(at, _)| &path[..=at]).all(|directory| verdict(directory) == Verdict::Take)
    };
    paths.iter().copied().filter(|path| is_reached(path) && verdict(path) == Verdict::Take).collect()
}

const HOME_IN: &[&str] = &[
    "serena_config.yml",
    "memories/",
    "memories/global/",
    "memories/global/style.md",
    "memories/global/deep/er/x.md",
    "contexts/mine.yml",
    "modes/mine.yml",
    "prompt_templates/info_prompts.yml",
    "news_read.pkl",
    "last_read_news_snippet_id.txt",
    "language_servers/",
    "language_servers/README",
    // Nobody knows them; they may be somebody's work.
    "newsletter.md",
    "notes.tmp",
    "notes.md.tmp",
    "memories/logs/x.md",
    "something/else",
    "memories/global/a.restore-0123",
    "projects/shop/.serena/project.yml",
    "projects/shop/.serena/memories/cache/x.md",
];

const HOME_OUT: &[&str] = &[
    "serena_config.yml.k3_9xz1q.tmp",
    "memories/global/style.md.abcdefgh.tmp",
    "hook_data/",
    "hook_data/1234/state.json",
    "news.json",
    "news_etag.txt",
    "logs/",
    "logs/2026-11-21/mcp_1.txt",
    "projects/shop/.serena/cache/",
    "projects/shop/.serena/cache/python/x.pkl",
    "projects/shop/.serena/logs/indexing.txt",
    ".serena-snapshotd-restore/",
    ".serena-snapshotd-restore/home/serena_config.yml",
    "projects/shop/.serena.restore-0123456789abcdef/",
];

const CACHE: &[&str] = &[
    "language_servers/static/",
    "language_servers/static/Ty/ty",
    "language_servers/static/EclipseJDTLS/vscode-java/x",
];

const NEVER: &[&str] = &[
    "language_servers/static/EclipseJDTLS/workspaces/",
    "language_servers/static/EclipseJDTLS/workspaces/a/.metadata",
];

#[test]
fn of_a_home_everything_is_taken_but_what_can_be_made_again() {
    let home = rules(Profile::Serena, &[], &[]);
    let all = [HOME_IN, HOME_OUT, CACHE, NEVER].concat();
    assert_eq!(walk(&home, &all), HOME_IN);
    assert_eq!(walk(&home.with_cache(true), &all), [HOME_IN, CACHE].concat());
}

#[test]
fn of_a_project_everything_is_taken_but_caches_and_logs() {
    let project = rules(Profile::Project, &[], &[]).with_cache(true);
    let (taken, not) = (
        [
            "project.yml",
            "project.local.yml",
            ".gitignore",
            "memories/",
            "memories/cache/x.md",
            "memories/a.md",
            "mine.txt",
        ],
        [
            "cache/",
            "cache/python/raw_document_symbols.pkl",
            "logs/",
            "logs/indexing.txt",
            "project.yml.________.tmp",
        ],
    );
    assert_eq!(walk(&project, &[&taken[..], &not].concat()), taken);
}

#[test]
fn everything_is_everything_but_our_own_leftovers_and_indexes_with_one_writer() {
    let everything = rules(Profile::Everything, &["**"], &[]);
    let taken = [
        "logs/x",
        "cache/x",
        "news.json",
        "x.yml.abcdefgh.tmp",
        "EclipseJDTLS/x",
        "workspaces/x",
        "a/EclipseJDTLS.workspaces",
    ];
    let not = [HOME_OUT[11], HOME_OUT[12], HOME_OUT[13], NEVER[0], NEVER[1]];
    assert_eq!(walk(&everything, &[&taken[..], &not].concat()), taken);
}

#[test]
fn the_users_exclude_wins_over_include_and_include_over_the_profile() {
    let home = rules(
        Profile::Serena,
        &["logs/keep/", "hook_data/*/state.json", "language_servers/*/EclipseJDTLS"],
        &["memories/global/secret", "**/*.bak", "logs/keep/not"],
    );
    let taken = [
        "logs/",
        "logs/keep/",
        "logs/keep/deep/er",
        "hook_data/",
        "hook_data/1/",
        "hook_data/1/state.json",
        "memories/global/public",
        "language_servers/static/",
        "language_servers/static/EclipseJDTLS/",
        "language_servers/static/EclipseJDTLS/x",
        "secret",
    ];
    let not = [
        "logs/other/",
        "logs/other/x",
        "logs/x",
        "logs/keep/not/",
        "logs/keep/not/x",
        "hook_data/1/other.json",
        "memories/global/secret",
        "memories/global/secret/x",
        "x.bak",
        "contexts/x.bak",
        "contexts/x.bak/y",
        "news.json",
        NEVER[0],
        NEVER[1],
    ];
    assert_eq!(walk(&home, &[&taken[..], &not].concat()), taken);
}

#[test]
fn a_star_stops_at_a_slash() {
    let one = rules(Profile::Everything, &[], &["*.bak", "a/?/c", "x/{y,z/w}"]);
    let taken = ["a.bak.txt", "b/x.bak", "a/bb/c", "x/z", "x/z/v"];
    assert_eq!(walk(&one, &[&taken[..], &["x.bak", "a/b/c", "x/y", "x/z/w"]].concat()), taken);
}

#[test]
fn a_glob_that_can_match_nothing_is_refused_by_name() {
    for (glob, why) in [
        ("", "it is empty"),
        ("/", "it is empty"),
        ("/home/x", "relative to the root"),
        ("../x", "no path below a root has"),
        ("./x", "no path below a root has"),
        ("a//b", "no path below a root has"),
        ("!x", "write what is to be taken into `include`"),
        ("a[", "unclosed character class"),
        ("{a", "unclosed alternate group"),
    ] {
        for (include, exclude) in [(vec![glob], vec![]), (vec![], vec!["good", glob])] {
            let error =
                Rules::new(Profile::Serena, &globs(&include), &globs(&exclude)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("glob `{glob}`: ")) && error.contains(why), "{error}");
        }
    }
    let error = "Serena".parse::<Profile>().unwrap_err().to_string();
    assert_eq!(error, "`Serena` is not a profile; write serena, project or everything");
}

#[test]
fn a_profile_parses_back() {
    for profile in [Profile::Everything, Profile::Project, Profile::Serena] {
        assert_eq!(profile.to_string().parse(), Ok(profile));
    }
}

#[test]
fn twenty_thousand_paths_are_judged_within_the_time_of_a_tick() {
    let home =
        rules(Profile::Serena, &["logs/keep/**", "x/*/y"], &["**/*.bak", "**/node_modules", "big/**/*.iso"]);
    let paths =
        (0..20_000).map(|n| format!("memories/global/part{}/of/it/file{n}.md", n % 200)).collect::<Vec<_>>();
    let began = tokio::time::Instant::now();
    let taken = paths.iter().filter(|path| home.takes(path.as_bytes(), false) == Verdict::Take).count();
    let took = began.elapsed();
    assert_eq!(taken, paths.len());
    // Twenty times less when optimised.
    assert!(took.as_millis() < 2000, "{took:?}");
}

proptest! {
    #[test]
    fn nothing_is_taken_below_what_is_skipped_and_no_byte_is_a_problem(
        path in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(vec!["logs", "cache", "static", "language_servers", "a", "b", ".serena", "EclipseJDTLS", "workspaces"])
                    .prop_map(|part| part.as_bytes().to_vec()),
                proptest::collection::vec(any::<u8>().prop_filter("part of a name", |byte| !b"/\0".contains(byte)), 1..6),
            ],
            1..6,
        ),
        include in proptest::collection::vec("(a|b|logs|cache|\\*|\\*\\*|\\?){1}(/(a|b|static|\\*|\\*\\*|[ab]\\*|\\{a,b/c\\})){0,3}", 0..4),
        exclude in proptest::collection::vec("(a|b|logs|\\*){1}(/(a|b|\\*\\*)){0,3}", 0..3),
        profile in proptest::sample::select(vec![Profile::Everything, Profile::Project, Profile::Serena]),
    ) {
        let rules = Rules::new(profile, &include, &exclude).unwrap();
        let whole = path.join(&b'/');
        if rules.takes(&whole, false) == Verdict::Take {
            for parts in 1..path.len() {
                let directory = path[..parts].join(&b'/');
                prop_assert_eq!(rules.takes(&directory, true), Verdict::Take, "{}", String::from_utf8_lossy(&directory));
            }
        }
        prop_assert_ne!(rules.takes(&whole, true), Verdict::Skip);
        prop_assert_ne!(rules.takes(&whole, false), Verdict::SkipTree);
    }
}
