"""Payments without a payment company: a small Stripe behind Stripe's own SDK, in Stripe's own shapes.

`stripe.StripeClient("sk_test_simulated", http_client=SimulatedStripe(...))` is all there is to it: the code that buys,
renews and refunds cannot tell the difference. `simulator` answers the requests, `addresses` lists what it knows, `hosted`
holds the verbs of the pages a person sees, and each kind of object has a module of its own.
"""

from services.gateways.simulated_stripe.simulator import SimulatedStripe

__all__ = ["SimulatedStripe"]
