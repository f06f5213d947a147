"""A package of one's own: an example of each kind of component, with its file in my_conf/.

The regularizer is the README's own, `my_gan.penalties.logit_drift`.
"""
