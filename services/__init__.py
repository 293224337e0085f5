"""What can be done: one public function is one verb is one transaction. The actor is the first argument.

Layers, each importing only from those above it (tests/house/test_imports.py holds the same list):
    errors, config, calendar        no imports of the house
    gateways                        doors to foreign systems
    price_list, credits, secrets    money, prices and tokens
    subscriptions, uploads          what a member may do, and files coming in
    accounts, api_keys, datasets    what a member keeps
    agents, base_models             where and on what a job runs
    training_jobs, model_versions   the main job
    reconcile, clock                what runs by itself
"""
