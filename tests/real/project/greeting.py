"""The project that Serena opens in the stories."""


class Greeter:
    """Greets by name."""

    def greet(self, name: str) -> str:
        return f"Hello, {name}!"


def main() -> None:
    print(Greeter().greet("world"))
