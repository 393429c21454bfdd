-- Functions on older base images are found by an index, without a look at each function.

-- What the image that a function runs stands on: its base, as "3.11-slim" (null: it runs nothing yet), and that one's
-- digest (null: it was built before digests were recorded).
alter table functions
    add column base text,
    add column base_digest text;

update functions f set base = v.python_version || '-' || v.base_variant, base_digest = b.base_digest
from builds b join versions v on v.function_id = b.function_id and v.version = b.version
where b.id = f.current_build;

create index functions_base on functions (base, base_digest, id) where deleted_at is null and base is not null;

-- Whatever makes a build the current one, also a service of the version before: the two are always those of that build.
create function functions_stand_on() returns trigger language plpgsql as $$
begin
    new.base := null;
    new.base_digest := null;
    select v.python_version || '-' || v.base_variant, b.base_digest into new.base, new.base_digest
    from builds b join versions v on v.function_id = b.function_id and v.version = b.version
    where b.id = new.current_build;
    return new;
end $$;

create trigger functions_stand_on before insert or update of current_build on functions
for each row execute function functions_stand_on();
