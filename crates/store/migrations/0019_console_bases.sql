-- The console: base images.

-- Where an image was published, [{registry, digest}]: base images are on two registries.
alter table builds add column published jsonb;

-- Who asked for a run of base images in the console.
create index audit_bases on audit (target) where action = 'build-bases';
