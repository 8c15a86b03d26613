package main

import (
	"net/http"
	"net/url"

	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/token"

	"github.com/spf13/cobra"
)

const tokensPath = "/api/v1/tokens" //nolint:gosec // a path, no credential

func (a *app) tokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Tokens of the admin API over TCP", Args: cobra.NoArgs, RunE: cli.WantCommand}
	c.AddCommand(a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
	return c
}

// madeToken is a token that was just made, the only time that it is said (P5).
type madeToken struct {
	token.Token
	Secret string `json:"token"`
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var name, scope, expires string
	c := &cobra.Command{
		Use: "create", Short: "Make a token; it is shown this once", Args: cli.NoArguments,
		Long: `Make a bearer token for the admin API over TCP (serve --admin). Its scope is read,
to look; operate, for the line's daily work on keys and devices; or admin, for all.
The commands need none: they use the socket in the data folder.`,
		Example: `  edgeclaim token create --name dashboard --scope read --expires 90d`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := token.ParseScope(scope); err != nil {
				return cli.Usagef("--scope: want read, operate or admin")
			}
			in, err := cli.ParseSpan(expires)
			if err != nil {
				return cli.Usagef("--expires: %v", err)
			}
			ask := struct {
				Name      string `json:"name"`
				Scope     string `json:"scope"`
				ExpiresIn string `json:"expires_in"`
			}{name, scope, in.String()}
			return show(cmd.Context(), a, request{http.MethodPost, tokensPath, ask}, a.printMadeToken)
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "whose it is; the audit says so")
	f.StringVar(&scope, "scope", "", "read, operate or admin")
	f.StringVar(&expires, "expires", "90d", "how long it is good")
	required(c, "name", "scope")
	return c
}

func (a *app) printMadeToken(made madeToken) error {
	err := cli.Facts(a.stdout, append(tokenFacts(&made.Token), [2]string{"token", made.Secret})...)
	a.warnOnce("token")
	return err
}

func tokenFacts(t *token.Token) [][2]string {
	return [][2]string{
		{"token_id", t.ID.String()}, {"name", t.Name}, {"scope", string(t.Scope)}, {"status", string(t.Status)},
		{"created_at", cli.When(t.CreatedAt)}, {"expires_at", cli.When(t.ExpiresAt)},
	}
}

func (a *app) tokenListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the tokens", Args: cli.NoArguments, Example: "  edgeclaim token list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			head := []string{"TOKEN ID", "NAME", "SCOPE", "STATUS", "CREATED", "EXPIRES"}
			return list(cmd.Context(), a, tokensPath, head, func(t token.Token) []string {
				return []string{t.ID.String(), t.Name, string(t.Scope), string(t.Status), cli.When(t.CreatedAt), cli.When(t.ExpiresAt)}
			})
		},
	}
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Refuse a token for good", Args: cobra.ExactArgs(1),
		Example: "  edgeclaim token revoke 0f3c9a7be1d24c58",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := token.ParseID(args[0])
			if err != nil {
				return cli.Usagef("want the id of a token: see token list") // not repeated: it may be a token itself
			}
			path := tokensPath + "/" + url.PathEscape(id.String())
			return show(cmd.Context(), a, request{http.MethodDelete, path, nil}, func(t token.Token) error {
				return cli.Facts(a.stdout, tokenFacts(&t)...)
			})
		},
	}
}
