# millrace's worker and server; docker-compose.yml says which of them a container runs.
FROM python:3.11-slim AS build

RUN python -m venv /opt/millrace
ENV PATH=/opt/millrace/bin:$PATH

# The dependencies first: they change more rarely than the sources, and Docker keeps their layer.
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir --no-deps .


FROM python:3.11-slim

RUN useradd --system --uid 10001 --create-home millrace \
    && install --directory --owner millrace --group millrace /var/lib/millrace /var/lib/millrace/lake /app

COPY --from=build /opt/millrace /opt/millrace
COPY --chown=millrace:millrace feature_repo /app/feature_repo

ENV PATH=/opt/millrace/bin:$PATH \
    PYTHONUNBUFFERED=1

USER millrace
WORKDIR /app
VOLUME /var/lib/millrace

CMD ["millrace", "run"]
