"""JAKA's controllers: wire protocol, client, driver, and the models of arm that they have."""
