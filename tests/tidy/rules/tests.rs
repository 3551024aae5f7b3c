//! Tests of the checkers: each finds what it is for, and accepts the rest.

use super::circles::{self, Allowed};
use super::{crates, docs, metrics, sources, sql};

#[test]
fn outward_dependencies_are_found() {
    let engine = |manifest: &str| crates::outward("agent/engine/Cargo.toml", manifest).len();
    assert_eq!(engine("[dependencies]\nmillpond-http.workspace = true\n"), 1, "a door");
    assert_eq!(engine("[dependencies.millpond-control-plane]\npath = \"..\"\n"), 1, "an implementation");
    assert_eq!(engine("[dev-dependencies]\nmillpond-tests.workspace = true\n"), 0, "in tests");
    assert_eq!(engine("[package]\nname = \"millpond\"\n[dependencies]\nmillpond-core.workspace = true\n"), 0);
    assert_eq!(crates::outward("util/Cargo.toml", "[package]\n").len(), 1, "an unknown package");

    let format = |manifest: &str| crates::misplaced("agent/format/Cargo.toml", manifest).len();
    assert_eq!(format("[dependencies]\ntokio.workspace = true\nparquet.workspace = true\n"), 1);
    assert_eq!(crates::misplaced("core/Cargo.toml", "[dependencies]\nsqlx = \"1\"\n").len(), 1);
    assert_eq!(
        crates::misplaced("agent/http/Cargo.toml", "[dependencies]\naxum.workspace = true\n").len(),
        0
    );
}

#[test]
fn circles_are_found() {
    let found =
        |files: &[(&str, &str)]| circles::found(files).iter().map(|c| c.join(" ")).collect::<Vec<_>>();
    let b = ("b.rs", "use crate::a::{self, X as Y};");
    for a in
        ["use super::b::Y;", "use crate::{c::Z, b};", "fn f() { g::<u8>(crate::b::Y) }", "use super::b::*;"]
    {
        assert_eq!(found(&[("a.rs", a), b, ("c.rs", "")]), ["a b"], "{a}");
    }
    for a in [
        "// use super::b::Y;",
        "const A: &str = r#\"\" crate::b::Y\"#;",
        "fn f<'b>(x: &'b str) { f('\"'); f(\"\\\"crate::b\") }",
        "use other::b::Y;",
        "pub(crate) mod c;",
        "#[cfg(test)]\nmod tests {\n    use crate::b::Y;\n}",
    ] {
        assert_eq!(found(&[("a.rs", a), b]), [""; 0], "{a}");
    }
    let face = ("a/mod.rs", "mod x;\nmod y;\nuse x::X;");
    assert_eq!(found(&[face, ("a/x.rs", "use super::Own;\nuse crate::a::Own;")]), [""; 0], "an ancestor");
    assert_eq!(found(&[face, ("a/x.rs", "use super::y;"), ("a/y.rs", "use super::x::X;")]), ["a::x a::y"]);
    assert_eq!(
        found(&[face, ("a/x.rs", "use crate::c::Z;"), ("c.rs", "use crate::a::Own;")]),
        ["a a::x c", "a c"]
    );
    let (x, y) = (("a/x.rs", "use super::super::c::y::Y;"), ("c/y.rs", ""));
    assert_eq!(found(&[x, y, ("c/z.rs", "use crate::a::w::W;"), ("a/w.rs", "")]), ["a c"], "folders");
    assert_eq!(found(&[x, ("c/y/tests.rs", "use crate::a::x::X;"), y]), [""; 0], "a file of tests");
}

#[test]
fn allowed_circles_are_let_through_while_they_exist() {
    let allowed = [Allowed { source: "a/src/", members: &["x", "y"], reason: "a reason" }];
    let (x, y) = (("x.rs", "use crate::y;"), ("y.rs", "use crate::x;"));
    assert_eq!(circles::unallowed("a/src/", &[x, y], &allowed).len(), 0);
    assert_eq!(circles::unallowed("b/src/", &[x, y], &allowed).len(), 1, "another crate");
    assert_eq!(circles::unallowed("a/src/", &[x, ("y.rs", "")], &allowed).len(), 1, "not needed any more");
    let larger = [("x.rs", "use crate::z;"), y, ("z.rs", "use crate::y;")];
    assert_eq!(circles::unallowed("a/src/", &larger, &allowed).len(), 2, "a new circle, and an old one gone");
}

#[test]
fn long_files_are_found() {
    let of = |lengths: &[(&str, usize)], exceptions: &[(&str, usize, &str)]| {
        let lengths: Vec<(String, usize)> = lengths.iter().map(|(p, n)| ((*p).to_owned(), *n)).collect();
        sources::too_long(&lengths, exceptions).len()
    };
    assert_eq!(of(&[("a.rs", 500), ("b.rs", 10), ("c.rs", 20)], &[]), 0);
    assert_eq!(of(&[("a.rs", 501), ("b.rs", 10), ("c.rs", 20)], &[]), 1);
    assert_eq!(of(&[("a.rs", 501), ("b.rs", 10), ("c.rs", 20)], &[("a.rs", 520, "a reason")]), 0);
    assert_eq!(of(&[("a.rs", 521), ("b.rs", 10), ("c.rs", 20)], &[("a.rs", 520, "a reason")]), 1);
    assert_eq!(
        of(&[("a.rs", 400), ("b.rs", 10), ("c.rs", 20)], &[("a.rs", 520, "a reason")]),
        1,
        "not needed any more"
    );
    assert_eq!(of(&[("a.rs", 400), ("b.rs", 301), ("c.rs", 20)], &[]), 1, "the median");
}

#[test]
fn bad_statements_are_found() {
    let path = "control-plane/queries/log/find.sql";
    let good = "-- Finds; all of it.\n-- Returns a row. Locks nothing. Index: batch_pkey.\nselect ';' as x -- one; only\n";
    assert_eq!(sql::flaws(path, good), Vec::<String>::new());
    assert_eq!(sql::flaws(path, "select 1").len(), 1, "no header");
    assert_eq!(sql::flaws(path, "-- Finds. Returns a row. Index: none.\nselect 1").len(), 1, "locks");
    assert_eq!(sql::flaws(path, &format!("{good}; select 2")).len(), 1, "two statements");
    assert_eq!(sql::flaws("control-plane/queries/find.sql", good).len(), 1, "no noun");
}

#[test]
fn parameters_that_a_header_leaves_out_are_found() {
    let flaws = |takes: &str| {
        let header =
            format!("-- Finds $1.\n{takes}-- Returns: a row.\n-- Locks: nothing.\n-- Index: x_pkey.\n");
        sql::flaws("control-plane/queries/log/find.sql", &format!("{header}select $1, $2 -- not $3\n"))
    };
    assert_eq!(flaws("-- Takes: $1 one (int8);\n--   $2 two (text).\n"), Vec::<String>::new());
    assert_eq!(flaws("-- Takes: $2 two (text).\n").len(), 1, "$1 is named elsewhere only");
    assert_eq!(flaws("-- Takes: $1 one (int8), $12 two (text).\n").len(), 2, "$2 is not, $12 is too much");
    assert_eq!(flaws("-- Takes: $1 one, $2 two, $3 three.\n").len(), 1, "$3 stands in a comment only");
    assert_eq!(flaws("").len(), 2, "no such section");
}

#[test]
fn wide_lines_are_found() {
    let wide = "x".repeat(111);
    assert_eq!(sources::too_wide(&format!("a\n{wide}\nb")), ["line 2: 111 columns, at most 110"]);
    assert_eq!(sources::too_wide(&"é".repeat(110)).len(), 0, "columns are not bytes");
    for good in [format!("\"{wide}\","), format!("r#\"{wide} \"x\" y\"#)?;"), format!("b\"{wide}\"")] {
        assert_eq!(sources::too_wide_rust(&good).len(), 0, "{good}");
    }
    for bad in [
        format!("\"a b{wide}\","),
        format!("f(\"{wide}\")"),
        format!("\"a\", {wide}, \"b\""),
        format!("// {wide}"),
    ] {
        assert_eq!(sources::too_wide_rust(&bad).len(), 1, "{bad}");
    }
}

#[test]
fn steps_that_drift_apart_are_found() {
    let one =
        "with a as (\n    -- once\n    select '(' as x\n),\nb as materialized (select 1)\nselect 2 as c";
    let drift = |other: &str| sql::drift(one, other).len();
    assert_eq!(sql::shared(one, one), ["a", "b"]);
    assert_eq!(drift(one), 0);
    assert_eq!(drift("with c as (select 3), d as (select 4)\nselect 5"), 0, "nothing is shared");
    assert_eq!(drift("with x as (select 1),\na as (select\n '(' as x)\nselect 1"), 0, "white space");
    assert_eq!(drift("with a as (select '(' as y)\nselect 1"), 1);
    assert_eq!(drift("with b as (select 1)\nselect 1"), 1, "materialized or not");
    assert_eq!(drift("with b as materialized (\n-- differs: why\nselect 2)\nselect 1"), 1, "said once");
    let marked = |why: &str, x: u8| format!("with a as (\n    -- differs:{why}\n    select {x}\n)\nselect 1");
    assert_eq!(sql::drift(&marked(" why", 1), &marked(" so", 2)).len(), 0);
    assert_eq!(sql::drift(&marked(" why", 1), &marked(" so", 1)).len(), 1, "it does not differ");
    assert_eq!(sql::drift(&marked(" why", 1), &marked("", 2)).len(), 1, "no reason");
    assert_eq!(sql::drift(&marked(" why", 1), "select 1").len(), 1, "from nothing");
}

#[test]
fn stored_code_is_found() {
    assert_eq!(sql::stored_code("CREATE OR REPLACE\n  FUNCTION f() returns int").len(), 1);
    assert_eq!(sql::stored_code("create constraint trigger t after insert").len(), 1);
    assert_eq!(sql::stored_code("create procedure p()").len(), 1);
    assert_eq!(
        sql::stored_code(
            "-- create function\ncreate table function_call (at timestamptz default clock_timestamp())"
        )
        .len(),
        0
    );
}

#[test]
fn foreign_words_are_found() {
    for bad in [
        "pub struct Message {",
        "enum Cursor {",
        "let message_id = 1;",
        "/// Its visibility timeout.",
        "const DLQ: u8 = 1;",
    ] {
        assert_eq!(sources::foreign_words(bad).len(), 1, "{bad}");
    }
    for good in
        ["use std::io::Cursor;", "enum Event {", "text/event-stream, Last-Event-ID", "an error's message"]
    {
        assert_eq!(sources::foreign_words(good).len(), 0, "{good}");
    }
    for bad in ["Send a message.", "Two Events later", "a DLQ", "a visibility timeout"] {
        assert_eq!(docs::foreign_words(bad).len(), 1, "{bad}");
    }
    for good in
        ["server-sent events", "`text/event-stream`, `Last-Event-ID`", "a commit message", "eventually"]
    {
        assert_eq!(docs::foreign_words(good).len(), 0, "{good}");
    }
}

#[test]
fn doubled_packages_are_found() {
    let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"a\"\nversion = \"2.0.0\"\n\n[[package]]\nname = \"a-b\"\nversion = \"3.0.0\"\n";
    assert_eq!(sources::versions_of(lock, "a"), ["1.0.0", "2.0.0"]);
    assert_eq!(sources::versions_of(lock, "a-b"), ["3.0.0"]);
    assert!(sources::versions_of(lock, "b").is_empty());
}

#[test]
fn stray_and_misnamed_metrics_are_found() {
    assert_eq!(
        metrics::strays("counter!(\"millpond_http_requests_total\")").len(),
        2,
        "the name and the macro"
    );
    assert_eq!(metrics::strays("ensure(\"millpond_core\", \"millpond-data\")").len(), 0);
    for bad in [
        "\"millpond_requests_total\"",
        "\"millpond_http_requests\"",
        "\"millpond_http_Requests_total\"",
        "\"millpond_http_total\"",
    ] {
        assert_eq!(metrics::misnamed(bad).len(), 1, "{bad}");
    }
    assert_eq!(metrics::misnamed("\"millpond_control_plane_call_seconds\"").len(), 0);
}

#[test]
fn dead_references_are_found() {
    let exists = |path: &str| ["docs/format.md", "README.md", "core/src/lib.rs", "agent/src"].contains(&path);
    let links = |path: &str, text: &str| docs::dead_links(path, text, exists).len();
    assert_eq!(links("README.md", "[a](docs/format.md#x) [b](https://x.org/y) [c](#here)"), 0);
    assert_eq!(links("docs/a.md", "[a](../README.md) [b](format.md)"), 0);
    assert_eq!(links("docs/a.md", "[a](docs/format.md)"), 1);
    assert_eq!(links("README.md", "[a](docs/nothing.md)"), 1);
    assert_eq!(
        docs::missing_paths(
            "`core/src/lib.rs` and `agent/src`, `v1/{cluster}/x`, `docs/adr/NNNN-<title>.md`",
            exists
        )
        .len(),
        0
    );
    assert_eq!(docs::missing_paths("| `core/src/gone.rs` | x |", exists).len(), 1);
    assert_eq!(docs::section("# a\n## b\none\n### c\ntwo\n## d\nthree", "## b"), "one\n### c\ntwo");
}

#[test]
fn unfinished_work_is_found() {
    for bad in ["// TODO: later", "todo!()", "unimplemented!(\"x\")", "#[ignore]", "-- FIXME"] {
        assert_eq!(sources::unfinished(bad).len(), 1, "{bad}");
    }
    for good in ["#[ignore = \"asks the network\"]", "todo = \"warn\"", "let todos = 1;"] {
        assert_eq!(sources::unfinished(good).len(), 0, "{good}");
    }
}
