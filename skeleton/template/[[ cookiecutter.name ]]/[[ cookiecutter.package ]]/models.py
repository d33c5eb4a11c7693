"""The tables. After a change: `.venv/bin/flask db revision -m "what changed"`."""

from datetime import UTC, datetime

from smartservice.db import Base
from sqlalchemy import DateTime, String
from sqlalchemy.orm import Mapped, mapped_column


class Greeting(Base):
    """One greeting that was said."""

    __tablename__ = "greetings"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    said_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC))
