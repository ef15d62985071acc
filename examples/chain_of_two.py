"""`achain_loop` with two agents that hand a number to each other until one of them has had enough."""

from miniagents import AWAIT, END, InteractionContext, MiniAgents, miniagent
from miniagents.utils import achain_loop


@miniagent
async def doubler(ctx: InteractionContext) -> None:
    """Doubles the number."""
    number = int(str(await ctx.message_promises.as_single_promise()))
    print(f"doubler was sent {number}")
    ctx.reply(str(number * 2))


@miniagent
async def judge(ctx: InteractionContext) -> None:
    """Adds one, and ends the loop when the number is large."""
    number = int(str(await ctx.message_promises.as_single_promise()))
    print(f"judge was sent {number}")
    ctx.reply(END if number > 100 else str(number + 1))


async def main() -> None:
    last = await achain_loop([doubler, judge, AWAIT], initial_input="3")
    print(f"the judge was given {last[0]}")


if __name__ == "__main__":
    MiniAgents().run(main())
