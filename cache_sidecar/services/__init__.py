"""One file per service: request -> dataset, or transaction -> reply. Services contain neither SQL nor Redis commands."""
