alter table cluster add column deletions_held_until timestamptz;
comment on column cluster.deletions_held_until is
    'no object is deleted before, since this database is a restored one, and began a new epoch as such';
