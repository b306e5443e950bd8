"""What models and datasets share on their way from the hub: settings, one sentence per fault, patience, hashes."""
