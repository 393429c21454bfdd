-- A function's usage of some days without that of all others: the most used images are looked for in the most used
-- functions.
create index image_usage_function on image_usage (function_id, day);
