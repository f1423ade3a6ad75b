"""What tests share that is no fixture: models, proxies, launchers, and views into the product."""
