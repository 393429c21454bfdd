-- Names of scheduled runs that can't be guessed, and the indexes of what is asked just before each deletion.

-- One row. Whoever may publish events but not read this can't take the name of a run before its schedule does.
create table schedule_key (
    is_only boolean primary key default true check (is_only),
    key uuid not null default gen_random_uuid()
);
insert into schedule_key default values;

create index functions_current on functions (current_build) where current_build is not null;
create index cleanup_items_back on cleanup_items (digest) where state = 'undone';
