"""The resource as users write and read it: spec, status, schema, rules and messages. No I/O."""
