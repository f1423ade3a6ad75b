-- emit_change runs with the rights of its owner, so whoever may attach it to a table can publish changes of any id. Attaching a
-- trigger needs EXECUTE on its function, which PostgreSQL grants to everybody unless told otherwise; firing one needs nothing.
REVOKE EXECUTE ON FUNCTION cache_sidecar.emit_change() FROM PUBLIC;
