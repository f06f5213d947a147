"""Words of other tools and of papers, and what they are called here: what error messages answer them with.

None of them is taken for the other silently. A line more here is all that another word needs.
"""

# The last name of a key -> what it is here.
SYNONYMS = {
    "batch": "batch_size",
    "critic_steps": "discriminator_steps",
    "data_dir": "root",
    "ema_decay": "ema_half_life",
    "hidden_size": "width",
    "iterations": "steps",
    "lambda": "weight",
    "latent_dim": "latent_size",
    "learning_rate": "lr",
    "max_steps": "steps",
    "n_critic": "discriminator_steps",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "num_steps": "steps",
    "nz": "latent_size",
    "resolution": "image_size",
    "z_dim": "latent_size",
}

# The last name of a key of other tools, StudioGAN above all, in small letters -> what to type; VALUE is what was given.
KEYS = {
    "adv_loss": "loss=VALUE",
    "apply_ada": "augmentation=ada",
    "apply_apa": "augmentation=apa",
    "apply_bcr": "regularizer=balanced_consistency",
    "apply_cr": "regularizer=consistency",
    "apply_d_sn": "regularizer=spectral_norm",
    "apply_diffaug": "augmentation=diffaugment",
    "apply_dra": "regularizer=dragan",
    "apply_g_ema": "ema_half_life=IMAGES",
    "apply_g_sn": "regularizer=spectral_norm 'regularizer.spectral_norm.on=[generator,discriminator]'",
    "apply_gp": "regularizer=gradient_penalty",
    "apply_lecam": "regularizer=lecam",
    "apply_r1_reg": "regularizer=r1",
    "apply_topk": "regularizer=top_k",
    "apply_wc": "regularizer=weight_clip",
    "apply_zcr": "regularizer=latent_consistency",
    "backbone": "model=VALUE",
    "beta1": "'optimizer.betas=[VALUE,0.99]'",
    "beta2": "'optimizer.betas=[0,VALUE]'",
    "d_cond_mtd": "head=VALUE",
    "d_conv_dim": "model.discriminator.width=VALUE",
    "d_lr": "optimizer.discriminator.lr=VALUE",
    "d_updates_per_step": "discriminator_steps=VALUE",
    "g_conv_dim": "model.generator.width=VALUE",
    "g_lr": "optimizer.generator.lr=VALUE",
    "img_size": "dataset.image_size=VALUE",
    "r1_lambda": "regularizer=r1 regularizer.r1.weight=VALUE",
    "total_steps": "steps=VALUE",
}

# GROUP=OPTION that there is not -> what to type.
OPTIONS = {
    "dataset=folder": "dataset=image_folder dataset.root=FOLDER",
    "loss=gan": "loss=bce",
    "loss=non_saturating": "loss=bce",
    "loss=vanilla": "loss=bce",
    "loss=wasserstein-gp": "loss=wgan_gp",
    "loss=wasserstein_gp": "loss=wgan_gp",
    "loss=wgan-div": "loss=wgan_div",
    "loss=wgan-gp": "loss=wgan_gp",
    "head=ac": "head=acgan",
    "head=2c": "head=contragan",
    "head=d2d_ce": "head=reacgan",
    "head=mh": "head=multi_hinge",
    "head=mhgan": "head=multi_hinge",
    "metric=fid": "metric=frechet features=inception",
    "metric=ifid": "metric=class_frechet features=inception conditional=true",
    "metric=inception": "metric=inception_score features=inception",
    "metric=is": "metric=inception_score features=inception",
    "metric=kid": "metric=kernel_distance features=inception",
    "regularizer=bcr": "regularizer=balanced_consistency",
    "regularizer=cr": "regularizer=consistency",
    "regularizer=gp": "regularizer=gradient_penalty",
    "regularizer=icr": "regularizer=improved_consistency",
    "regularizer=pacgan": "model.discriminator.pack=2",
    "regularizer=topk": "regularizer=top_k",
    "regularizer=zcr": "regularizer=latent_consistency",
    "regularizer=sn": "regularizer=spectral_norm",
}

# A verb that there is not -> what to type before the words that follow it.
VERBS = {
    "continue": "gan-runner resume",
    "eval": "gan-runner evaluate",
    "fit": "gan-runner",
    "generate": "gan-runner sample",
    "help": "gan-runner --help",
    "multirun": "gan-runner -m",
    "run": "gan-runner",
    "sweep": "gan-runner -m",
    "test": "gan-runner evaluate",
    "train": "gan-runner",
    "version": "gan-runner --version",
}
