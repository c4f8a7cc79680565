"""A student's answer, right in every rule; tests plant one miss at a time. Written without a look at cnnprof's own."""

import torch
import torch.nn as nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda **kw: nn.Softmax(**{"dim": 1, **kw}),
    "logsoftmax": lambda **kw: nn.LogSoftmax(**{"dim": 1, **kw}),
    "lrelu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "none": nn.Identity,
}
POOLINGS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


class CNN(nn.Module):
    def __init__(
        self,
        in_size,
        out_classes,
        channels,
        pool_every,
        hidden_dims,
        conv_params={},
        activation_type="relu",
        activation_params={},
        pooling_type="max",
        pooling_params={},
    ):
        super().__init__()
        self.in_size = in_size
        self.out_classes = out_classes
        self.channels = channels
        self.pool_every = pool_every
        self.hidden_dims = hidden_dims
        self.conv_params = conv_params
        self.activation_type = activation_type
        self.activation_params = activation_params
        self.pooling_type = pooling_type
        self.pooling_params = pooling_params
        self.feature_extractor = self._make_feature_extractor()
        self.mlp = self._make_mlp()

    def _make_feature_extractor(self):
        in_channels, in_h, in_w = tuple(self.in_size)
        layers = []
        N = len(self.channels)
        P = self.pool_every
        activation = ACTIVATIONS[self.activation_type]
        for i in range(N):
            layers.append(nn.Conv2d(in_channels, self.channels[i], **self.conv_params))
            layers.append(activation(**self.activation_params))
            if (i + 1) % P == 0:
                layers.append(POOLINGS[self.pooling_type](**self.pooling_params))
            in_channels = self.channels[i]
        return nn.Sequential(*layers)

    def _n_features(self):
        state = torch.get_rng_state()
        training = self.training
        try:
            self.eval()
            with torch.no_grad():
                x = torch.zeros(1, *self.in_size)
                return self.feature_extractor(x).numel()
        finally:
            self.train(training)
            torch.set_rng_state(state)

    def _make_mlp(self):
        layers = []
        n_in = self._n_features()
        for dim in self.hidden_dims:
            layers.append(nn.Linear(n_in, dim))
            layers.append(ACTIVATIONS[self.activation_type](**self.activation_params))
            n_in = dim
        layers.append(nn.Linear(n_in, self.out_classes))
        return nn.Sequential(*layers)

    def forward(self, x):
        features = self.feature_extractor(x)
        features = features.reshape(features.shape[0], -1)
        out = self.mlp(features)
        return out


class ResidualBlock(nn.Module):
    def __init__(
        self,
        in_channels,
        channels,
        kernel_sizes,
        batchnorm=False,
        dropout=0.0,
        activation_type="relu",
        activation_params={},
    ):
        super().__init__()
        act = ACTIVATIONS[activation_type]
        main_layers = []
        shortcut_layers = []
        c_in = in_channels
        for i, (c, k) in enumerate(zip(channels, kernel_sizes)):
            main_layers.append(nn.Conv2d(c_in, c, kernel_size=k, padding=k // 2))
            if i < len(channels) - 1:
                if dropout > 0:
                    main_layers.append(nn.Dropout2d(dropout))
                if batchnorm:
                    main_layers.append(nn.BatchNorm2d(c))
                main_layers.append(act(**activation_params))
            c_in = c
        if in_channels != channels[-1]:
            shortcut_layers.append(nn.Conv2d(in_channels, channels[-1], kernel_size=1, bias=False))
        self.main_path = nn.Sequential(*main_layers)
        self.shortcut_path = nn.Sequential(*shortcut_layers)

    def forward(self, x):
        out = self.main_path(x)
        out = out + self.shortcut_path(x)
        out = torch.relu(out)
        return out


class ResidualBottleneckBlock(ResidualBlock):
    def __init__(self, in_out_channels, inner_channels, inner_kernel_sizes, **kwargs):
        super().__init__(
            in_out_channels,
            [inner_channels[0], *inner_channels, in_out_channels],
            [1, *inner_kernel_sizes, 1],
            **kwargs,
        )


class ResNet(CNN):
    def __init__(
        self,
        in_size,
        out_classes,
        channels,
        pool_every,
        hidden_dims,
        batchnorm=False,
        dropout=0.0,
        bottleneck=False,
        **kwargs,
    ):
        self.batchnorm = batchnorm
        self.dropout = dropout
        self.bottleneck = bottleneck
        super().__init__(in_size, out_classes, channels, pool_every, hidden_dims, **kwargs)

    def _make_feature_extractor(self):
        in_channels, in_h, in_w = tuple(self.in_size)
        layers = []
        P = self.pool_every
        options = dict(
            batchnorm=self.batchnorm,
            dropout=self.dropout,
            activation_type=self.activation_type,
            activation_params=self.activation_params,
        )
        for start in range(0, len(self.channels), P):
            group = self.channels[start : start + P]
            if self.bottleneck and in_channels == group[-1] and len(group) >= 3:
                inner = group[1:-1]
                layers.append(ResidualBottleneckBlock(in_channels, inner, [3] * len(inner), **options))
            else:
                layers.append(ResidualBlock(in_channels, group, [3] * len(group), **options))
            if len(group) == P:
                layers.append(POOLINGS[self.pooling_type](**self.pooling_params))
            in_channels = group[-1]
        return nn.Sequential(*layers)


class ArgMaxClassifier(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)

    def predict_proba(self, x):
        z = self.model(x)
        return torch.softmax(z, dim=1)

    def classify(self, x):
        probabilities = self.predict_proba(x)
        return torch.argmax(probabilities, dim=1)
