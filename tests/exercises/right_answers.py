"""Right answers to some exercises that are written in another way: (exercise, its lines)."""

RIGHT_ANSWERS = [
    (
        "softmax-policy",
        """
        distribution = torch.distributions.Categorical(logits=logits)
        return [distribution.log_prob(action), distribution.entropy()]
        """,
    ),
    (
        "gaussian-policy",
        """
        distribution = torch.distributions.Normal(mean, log_std.exp().expand_as(mean))
        return distribution.log_prob(action).sum(-1), distribution.entropy().sum(-1)
        """,
    ),
    (
        "softmax-kl",
        """
        old = torch.distributions.Categorical(logits=old_logits.detach())
        new = torch.distributions.Categorical(logits=logits)
        return torch.distributions.kl_divergence(old, new)
        """,
    ),
    (
        "gaussian-kl",
        """
        old = torch.distributions.Normal(old_mean, old_log_std.exp())
        new = torch.distributions.Normal(mean, log_std.exp())
        return torch.distributions.kl_divergence(old, new).sum(-1)
        """,
    ),
    (
        "kl-penalty",
        """
        kl_again = agent.kl(batch_old_out[mb], batch_old_log_std[mb], out).mean()
        penalty = kl_penalty.coef * kl_again
        """,
    ),
    (
        "natural-gradient",
        """
        length = torch.sqrt(2 * max_kl / (direction @ product(direction) + 1e-30))
        step = length * direction
        """,
    ),
    (
        "exploration",
        """
        action += noise
        action.clamp_(-1, 1)
        """,
    ),
    (
        "twin-target",
        """
        next_value = torch.min(target_q1(next_x, next_action), target_q2(next_x, next_action))
        """,
    ),
    (
        "twin-target",
        """
        is_larger = next_q1 > next_q2
        next_q1[is_larger] = next_q2[is_larger]
        next_value = next_q1
        """,
    ),
    (
        "target-smoothing",
        """
        noise.clamp_(-noise_clip, noise_clip)
        return action.add_(noise).clamp_(-1, 1)
        """,
    ),
    (
        "soft-value",
        """
        return torch.min(q1 - alpha * log_prob, q2 - alpha * log_prob)
        """,
    ),
    (
        "tanh-gaussian",
        """
        normal = torch.distributions.Normal(mean, log_std.exp())
        u = mean + log_std.exp() * noise
        log_slope = 2 * (np.log(2) - u - nn.functional.softplus(-2 * u))
        return torch.tanh(u), (normal.log_prob(u) - log_slope).sum(-1)
        """,
    ),
    (
        "behavioural-cloning",
        """
        target = agent.from_env(label)
        if agent.discrete:
            return -torch.distributions.Categorical(logits=out).log_prob(target).mean()
        return -torch.distributions.Normal(out, 1.0).log_prob(target).sum(-1).mean()
        """,
    ),
]
