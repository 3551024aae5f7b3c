use super::super::stored::PartitionRange;
use super::*;

fn problem(code: &str) -> Problem {
    Problem { code: code.to_owned(), detail: "the detail".to_owned(), ..Problem::default() }
}

#[test]
fn a_problem_is_its_detail_its_code_and_what_to_do() {
    let error = CliError::Problem(Box::new(problem("unauthenticated")));
    assert_eq!(
        error.report(),
        "error: the detail (unauthenticated)\nhint: give a token with --token or MILLPOND_TOKEN"
    );
    let error = CliError::Problem(Box::new(problem("something_new")));
    assert_eq!(error.report(), "error: the detail (something_new)");
}

#[test]
fn a_stopped_stream_tells_where_and_how_much_is_stored() {
    let partitions =
        vec![PartitionRange { partition: 3, first_offset: 10, last_offset: 1_009, count: 1_000 }];
    let committed = Some(Committed { count: 1_000, partitions, duplicate: false });
    let error =
        CliError::Problem(Box::new(Problem { line: Some(1_001), committed, ..problem("invalid_record") }));
    assert_eq!(
        error.report(),
        "error: the detail (invalid_record)\n  at line 1,001 of the input\n  \
         stored from its beginning: 1,000 records (partition 3: 10–1009)"
    );
}

#[test]
fn the_whole_chain_is_told_once() {
    let source = Box::new(CliError::Problem(Box::new(problem("throttled"))));
    let source = Box::new(CliError::GaveUp { waited: Duration::from_secs(61), source });
    let error =
        CliError::Unfinished { name: "x.ndjson".to_owned(), idempotency_key: "k1".to_owned(), source };
    assert_eq!(
        error.report(),
        "error: only part of x.ndjson may have been stored\n  \
         because: gave up after 61 s without progress\n  \
         because: the detail (throttled)\n\
         hint: send the same input again with `--idempotency-key k1`: the server stores only what is missing"
    );
}
