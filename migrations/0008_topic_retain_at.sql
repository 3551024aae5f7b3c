-- no-transaction
create index concurrently if not exists topic_retain_at on topic (retain_at);
